"""Images on a network: their names, what is asked of a server, and what is said when it fails. The server is local."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rasters import NORTH_UP, shown, write_picture, write_tif

from refine import Settings, refine_raster
from refine.errors import InputError, RasterError, RefineError
from refine.geometry import Window
from refine.inputs import make_jobs
from refine.raster import default_output, open_image, read_header, remote_fingerprint
from refine.remote import RemotePath, as_path

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class Server:
    """`range_server.py` over a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "requests.txt"
        command = [sys.executable, str(Path(__file__).with_name("range_server.py")), str(folder)]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        self.host = f"127.0.0.1:{int(self.process.stdout.readline())}"

    def requests(self) -> list[list[str]]:
        """Method, path, range and status of all that was asked."""
        finished = self._log.read_text().rpartition("\n")[0]
        return [line.split() for line in finished.splitlines()]

    def fetched(self) -> int:
        """Bytes that were sent in ranges."""
        ranges = [words[2].removeprefix("bytes=").split("-") for words in self.requests() if words[-1] == "206"]
        return sum(int(last) - int(first) + 1 for first, last in ranges)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, photograph: Pair) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    noise = np.random.default_rng(1).integers(0, 60, (2400, 3200, 3), dtype=np.uint8)
    pixels = noise + np.kron(photograph[0], np.ones((8, 8, 1), np.uint8)) // 2
    write_tif(folder / "scene.tif", pixels, tiled=True, blockxsize=256, blockysize=256, overviews=[2, 4, 8],
              transform=NORTH_UP, crs="EPSG:25833")  # fmt: skip
    write_tif(folder / "small.tif", photograph[0])
    (folder / "broken.tif").write_bytes((folder / "scene.tif").read_bytes())
    write_tif(folder / "rough.tif", np.ascontiguousarray(photograph[1][::4, ::4]))
    write_picture(folder / "photo.jpg", photograph[0])
    (folder / "bucket").mkdir()
    (folder / "bucket" / "small.tif").write_bytes((folder / "small.tif").read_bytes())
    running = Server(folder)
    yield running
    running.process.terminate()
    running.process.communicate(timeout=10)


@pytest.mark.parametrize(
    ("typed", "gdal_name", "stem"),
    [
        ("https://host/a/scene.tif", "/vsicurl/https://host/a/scene.tif", "scene"),
        ("http://host:8080/scene.tif?sig=a.b", "/vsicurl/http://host:8080/scene.tif?sig=a.b", "scene"),
        ("s3://bucket/scene.tif", "/vsis3/bucket/scene.tif", "scene"),
        ("/vsicurl/https://host/scene.tif", "/vsicurl/https://host/scene.tif", "scene"),
        ("/vsis3/bucket/scene.tif", "/vsis3/bucket/scene.tif", "scene"),
    ],
)
def test_an_address_is_kept_as_it_was_typed(typed: str, gdal_name: str, stem: str) -> None:
    for name in (typed, Path(typed)):
        path = as_path(name)
        assert isinstance(path, RemotePath)
        assert (str(path), path.gdal_name, path.stem) == (typed, gdal_name, stem)
        assert not path.exists()


@pytest.mark.parametrize("name", ["scene.tif", "https.tif", "s3/a.tif", "C:/scene.tif", "a b:c.tif", "s3", "/vsi"])
def test_all_else_is_a_local_path(name: str) -> None:
    assert not isinstance(as_path(name), RemotePath)


def test_a_local_folder_may_be_called_like_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set1:").mkdir()
    (tmp_path / "set1:" / "a.tif").touch()
    assert not isinstance(as_path("set1:/a.tif"), RemotePath)


def test_an_address_that_no_path_can_hold_is_refused() -> None:
    with pytest.raises(InputError, match=r"give the address as https://host/a/scene\.tif"):
        as_path("https://host/a//scene.tif")


@pytest.mark.parametrize(
    "name", ["s3://", "s3://bucket", "s3://bucket/", "https://", "http://host", "https://host/", "/vsis3/", "/vsicurl/"]
)
def test_an_address_without_a_file_is_refused(name: str) -> None:
    for given in (name, Path(name)):
        with pytest.raises(
            InputError, match=f"^{name.rstrip('/')}.*(names no file; write|not an address).* s3://BUCKET"
        ):
            as_path(given)


@pytest.mark.parametrize("name", ["ftp://host/scene.tif", "gs://bucket/a.tif", "file:///a.tif", "/vsizip/a.zip/a.tif"])
def test_an_address_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: not an address that refine reads; it reads https://HOST/FILE"):
        as_path(name)
    with pytest.raises(InputError, match=r"not an address that refine reads"):
        make_jobs([name], mask=None, out=None, suffix_of=lambda _: ".tif")


@pytest.mark.parametrize("name", ["s3://bucket/out/", "https://host/x.tif", "gs://bucket/out/", "/vsis3/bucket/out/"])
def test_a_result_is_not_written_to_a_folder_that_is_called_like_an_address(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").touch()
    with pytest.raises(InputError, match=f"^--out {name}: is an address"):
        make_jobs(["a.png"], mask=None, out=name, suffix_of=lambda _: ".png")
    Path("gs:").mkdir()
    (job,) = make_jobs(["a.png"], mask=None, out="gs://out/", suffix_of=lambda _: ".png")
    assert job.out == Path("gs:/out/a.png")


def test_a_result_goes_to_the_current_folder_and_equal_stems_are_refused(server: Server) -> None:
    name = f"http://{server.host}/scene.tif"
    assert default_output(read_header(as_path(name))) == Path("scene_mask.tif")
    (job,) = make_jobs([name], mask=None, out=None, suffix_of=lambda _: ".tif")
    assert (str(job.image), job.out) == (name, Path("scene_mask.tif"))
    with pytest.raises(InputError, match="have the same stem"):
        make_jobs([name, "s3://bucket/scene.tif"], mask=None, out=None, suffix_of=lambda _: ".tif")


def test_an_image_and_its_mask_on_a_network_give_the_result_of_the_local_files(
    tmp_path: Path, server: Server, checkpoints: Path
) -> None:
    settings = Settings(device="cpu", checkpoint=checkpoints / "mos_h_lite.safetensors")
    names = {"image": "scene.tif", "mask": "rough.tif"}
    local = {use: server.folder / name for use, name in names.items()}
    remote = {use: f"http://{server.host}/{name}" for use, name in names.items()}
    refine_raster(local["image"], tmp_path / "local.tif", local["mask"], settings=settings)
    report = refine_raster(remote["image"], tmp_path / "remote.tif", remote["mask"], settings=settings)
    assert (tmp_path / "remote.tif").read_bytes() == (tmp_path / "local.tif").read_bytes()
    assert report.image == remote["image"]


def test_only_what_is_needed_is_fetched_and_nothing_beside_the_file(server: Server) -> None:
    path = as_path(f"http://{server.host}/scene.tif?first")
    before, asked = server.fetched(), len(server.requests())
    with open_image(path) as image:
        image.prepare([8])
        image.read(Window(0, 0, 300, 400), 8)
    assert server.fetched() - before < 0.1 * (server.folder / "scene.tif").stat().st_size
    assert {words[1] for words in server.requests()[asked:]} == {"/scene.tif?first"}


def test_s3_is_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_S3_ENDPOINT", server.host)
    for name, value in {"HTTPS": "NO", "VIRTUAL_HOSTING": "FALSE", "NO_SIGN_REQUEST": "YES"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    np.testing.assert_array_equal(shown(as_path("s3://bucket/small.tif")), shown(server.folder / "small.tif"))


def test_a_fingerprint_is_that_of_the_content(server: Server) -> None:
    first, same, other = (
        remote_fingerprint(RemotePath(f"http://{server.host}/{name}"))
        for name in ("small.tif", "bucket/small.tif?signed", "rough.tif")
    )
    assert first == same != other


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.tif", "missing.tif: cannot be opened: .*404"),
        ("photo.jpg", "photo.jpg: over a network refine reads GeoTIFF .* download it first"),
    ],
)
def test_what_cannot_be_read_is_one_line(server: Server, name: str, said: str) -> None:
    with pytest.raises(RefineError, match=f"^http://{server.host}/{said}") as raised:
        read_header(as_path(f"http://{server.host}/{name}"))
    assert "\n" not in str(raised.value)


def test_a_failure_that_is_met_again_is_no_matter_of_the_format() -> None:
    path = as_path("http://127.0.0.1:1/scene.tif")  # nobody listens there
    for _ in range(2):
        with pytest.raises(RasterError, match=r"scene\.tif: cannot be opened: "):
            read_header(path)


def test_no_result_is_written_to_an_address(server: Server) -> None:
    with pytest.raises(InputError, match=r"^s3://bucket/mask\.tif: a mask is written to a local file"):
        refine_raster(server.folder / "small.tif", "s3://bucket/mask.tif")


def test_a_server_that_fails_on_the_way_is_an_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    with pytest.raises(RasterError, match=r"broken\.tif: cannot be read"):
        shown(as_path(f"http://{server.host}/broken.tif"))
