"""Training MOS_L and MOS_H from a JSON config, with exact resume."""
