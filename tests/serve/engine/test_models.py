"""One model on this machine's hardware: its file, its precision, its device, and the error if it does not load."""

import shutil
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from serve.settings import Settings


def test_precisions(tiny: Any, tmp_path: Path) -> None:
    from serve.engine.batching import Engine
    from serve.engine.processor import has_fast_int8

    tiny(tmp_path / "both").write().write("int8")
    tiny(tmp_path / "plain").write()
    usual = "int8" if has_fast_int8() else "fp32"
    for precision, expected in (
        ("auto", {"both": usual, "plain": "fp32"}),
        ("fp32", {"both": "fp32", "plain": "fp32"}),
        ("int8", {"both": "int8"}),
    ):
        with Engine(Settings(models=tmp_path, precision=precision, device="cpu")) as engine:
            assert {name: info.precision for name, info in engine.models().items()} == expected


@pytest.mark.parametrize(
    ("device", "fast", "precision"), [("cpu", True, "int8"), ("cpu", False, "fp32"), ("cuda", True, "fp32")]
)
def test_the_usual_precision_is_the_faster_one(
    device: str, fast: bool, precision: str, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve.engine import models

    tiny(tmp_path / "both").write().write("int8")
    monkeypatch.setattr(models, "has_fast_int8", lambda: fast)
    assert models._choose(tmp_path / "both", "auto", device) == precision


@pytest.mark.parametrize(
    ("flags", "fast", "dot_product", "tiles"),
    [
        ("fpu sse2", False, False, False),
        ("fpu sse2 avx2", True, False, False),
        ("fpu sse2 avx2 avx_vnni", True, True, False),
        ("sse2 avx2 avx512_vnni", True, True, False),
        ("sse2 avx2 amx_bf16 amx_tile", True, False, False),
        ("sse2 avx2 avx512_vnni amx_bf16 amx_tile amx_int8", True, True, True),
        ("fp asimd", False, False, False),
        ("fp asimd asimddp", True, True, False),
    ],
)
def test_processors_are_told_apart(
    flags: str, fast: bool, dot_product: bool, tiles: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve.engine.processor import has_fast_int8, has_int8_dot_product, has_int8_tiles

    monkeypatch.setattr("platform.system", lambda: "Linux")
    (tmp_path / "proc").mkdir()
    name = "avx2 avx_vnni amx_int8 amx_tile"
    (tmp_path / "proc/cpuinfo").write_text(f"processor\t: 0\nmodel name\t: {name}\nflags\t\t: {flags}\n")
    told = (has_fast_int8, has_int8_dot_product, has_int8_tiles)
    assert [tell(tmp_path) for tell in told] == [fast, dot_product, tiles]
    assert not any(tell(tmp_path / "elsewhere") for tell in told)


@pytest.mark.parametrize("dot_product", [True, False])
def test_int8_is_computed_in_the_exact_way_only_where_the_fast_one_runs_over(
    dot_product: bool, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve.engine import models

    tiny(tmp_path / "model").write("int8")
    opened: list[Any] = []

    def session(path: Path, options: Any, **kwargs: Any) -> Any:
        opened.append(options)
        return onnxruntime.InferenceSession(path, options, **kwargs)

    fake = types.SimpleNamespace(SessionOptions=onnxruntime.SessionOptions, InferenceSession=session)
    monkeypatch.setattr(models, "onnxruntime", fake)
    monkeypatch.setattr(models, "has_int8_dot_product", lambda: dot_product)
    models.load(tmp_path / "model", Settings(precision="int8", device="cpu", threads=3))
    assert [options.intra_op_num_threads for options in opened] == [3, 1]  # for runs alone, and for those side by side
    for options in opened:
        if dot_product:  # where it would take twice the time
            with pytest.raises(RuntimeError):
                options.get_session_config_entry("session.x64quantprecision")
        else:
            assert options.get_session_config_entry("session.x64quantprecision") == "1"


@pytest.fixture
def for_amx(tiny: Any, tmp_path: Path) -> tuple[Any, Any]:
    """A folder with all files; the one for AMX answers otherwise, so that the tests see which of them runs."""
    plain = tiny(tmp_path / "model").write().write("int8")
    other = tiny(tmp_path / "elsewhere" / "model", seed=1).write("int8", variant="amx")
    shutil.copy(other.folder / "model.int8.onnx", plain.folder / "model.int8-amx.onnx")
    return plain, other


@pytest.mark.parametrize(
    ("tiles", "precision", "threads", "amx"),
    [
        (True, "int8", 1, {"run", "run_on_one_core"}),
        (True, "int8", 2, {"run_on_one_core"}),
        (True, "fp32", 2, set()),
        (False, "int8", 1, set()),
        (False, "int8", 2, set()),
    ],
)
def test_the_file_for_amx_runs_on_one_core_of_such_a_processor(
    for_amx: tuple[Any, Any], tiles: bool, precision: str, threads: int, amx: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve.engine import models

    plain, other = for_amx
    monkeypatch.setattr(models, "has_int8_tiles", lambda: tiles)
    model = models.load(plain.folder, Settings(precision=precision, device="cpu", threads=threads))
    assert model.info.precision == precision
    images = plain.images(3)
    for name in ("run", "run_on_one_core"):
        expected = other if name in amx else plain
        np.testing.assert_array_equal(getattr(model, name)(images)[0], expected.logits(images))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("build", ["missing", "other weights", "no variant"])
def test_a_folder_without_the_file_for_amx_is_served(
    for_amx: tuple[Any, Any],
    build: str,
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And one whose file for AMX is of another build, as after an export by other means."""
    from serve.engine import models

    plain, other = for_amx
    file = plain.folder / "model.int8-amx.onnx"
    if build == "missing":
        file.unlink()
    else:
        stated = {"safetensors_sha256": "1" * 64, "variant": "amx"} if build == "other weights" else {}
        shutil.copy(other.write("int8", **stated).folder / "model.int8.onnx", file)
    monkeypatch.setattr(models, "has_int8_tiles", lambda: True)
    model = models.load(plain.folder, Settings(precision="int8", device="cpu", threads=threads))
    images = plain.images(3)
    for run in (model.run, model.run_on_one_core):
        np.testing.assert_array_equal(run(images)[0], plain.logits(images))
    assert ("train/export.py" in caplog.text) == (build != "missing")


def test_a_broken_int8_file_gives_the_same_error_on_every_processor(
    for_amx: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve.engine import models
    from serve.errors import ModelLoadError

    plain, _ = for_amx
    whole = (plain.folder / "model.int8.onnx").read_bytes()
    for content in (b"", b"no model", b"\x3a\xff", b"\xff" * 40, whole[:-9]):
        (plain.folder / "model.int8.onnx").write_bytes(content)
        messages = []
        for tiles in (True, False):
            monkeypatch.setattr(models, "has_int8_tiles", lambda tiles=tiles: tiles)
            with pytest.raises(ModelLoadError, match="does not load") as error:
                models.load(plain.folder, Settings(precision="int8", device="cpu"))
            messages.append(error.value.message)
        assert messages[0] == messages[1]


def test_weights_in_a_file_beside_it_are_found(for_amx: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Large models keep them there."""
    from serve.engine import models

    plain, other = for_amx
    for name in ("model.int8.onnx", "model.int8-amx.onnx"):
        proto = onnx.load(plain.folder / name)
        onnx.save(proto, plain.folder / name, save_as_external_data=True, size_threshold=40, location=f"{name}.bin")
        assert (plain.folder / f"{name}.bin").stat().st_size > 2000
    monkeypatch.setattr(models, "has_int8_tiles", lambda: True)
    model = models.load(plain.folder, Settings(precision="int8", device="cpu", threads=2))
    images = plain.images(3)
    np.testing.assert_array_equal(model.run(images)[0], plain.logits(images))
    np.testing.assert_array_equal(model.run_on_one_core(images)[0], other.logits(images))


def test_one_core_needs_no_second_session(tiny: Any, tmp_path: Path) -> None:
    from serve.engine import models

    tiny(tmp_path / "model").write()
    assert not models.load(tmp_path / "model", Settings(device="cpu", threads=1)).shares_cores
    assert models.load(tmp_path / "model", Settings(device="cpu", threads=2)).shares_cores


@pytest.mark.parametrize("trouble", ["opening", "providers", "running", "none"])
@pytest.mark.parametrize("device", ["auto", "cuda", "cpu"])
def test_cuda_is_used_only_where_it_works(
    trouble: str,
    device: str,
    tiny: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from serve.engine import models
    from serve.errors import ModelLoadError

    tiny(tmp_path / "model").write()

    class Session(onnxruntime.InferenceSession):
        """As on a machine with a GPU; it computes on the CPU."""

        def __init__(self, path: Path, options: Any, *, providers: list[Any], enable_fallback: bool) -> None:
            assert not enable_fallback, "it would change to the CPU by itself"
            self.on_gpu = providers[0] != "CPUExecutionProvider"
            if self.on_gpu and trouble == "opening":
                raise RuntimeError("CUDA failure 100")
            super().__init__(path, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            gpu = self.on_gpu and trouble != "providers"
            return ["CUDAExecutionProvider", "CPUExecutionProvider"] if gpu else ["CPUExecutionProvider"]

        def run(self, *arguments: Any) -> Any:
            if self.on_gpu and trouble == "running":
                raise RuntimeError("CUDA failure 100")
            return super().run(*arguments)

    monkeypatch.setattr(models.onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(models.onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(models, "has_cuda", lambda: True)
    settings = Settings(device=device, threads=2)
    why = "CUDA provider did not load" if trouble == "providers" else "CUDA failure 100"
    if device == "cuda" and trouble != "none":
        with pytest.raises(ModelLoadError, match=f"device is 'cuda', but .*{why}"):
            models.load(tmp_path / "model", settings)
        return
    model = models.load(tmp_path / "model", settings)
    works = device != "cpu" and trouble == "none"
    assert model.info.device == ("cuda" if works else "cpu")
    assert model.shares_cores == (not works)
    assert (why in caplog.text) == (device == "auto" and not works)


@pytest.mark.parametrize(("most", "sizes"), [(1, (1,)), (8, (1, 2, 4, 8)), (12, (1, 2, 4, 8, 12))])
def test_on_a_gpu_runs_are_of_few_sizes(most: int, sizes: tuple[int, ...]) -> None:
    """It chooses its kernels anew for each; what fills a run up has no part in the answers."""
    from serve.engine import models

    ran: list[int] = []

    class Session:
        def run(self, names: list[str], inputs: dict[str, Any]) -> list[Any]:
            ran.append(len(inputs["image"]))
            return [inputs["image"].astype(np.float32).reshape(-1, 4)] * 2

    assert models._padded_sizes(most) == sizes
    info: Any = None
    session: Any = Session()
    model = models.Model(info, session, sizes=sizes)
    for count in range(1, most + 1):
        images = np.arange(4 * count, dtype=np.uint8).reshape(count, 2, 2, 1)
        for scores in model.run(images):
            np.testing.assert_array_equal(scores, images.reshape(-1, 4))
    assert set(ran) == set(sizes)


def test_a_broken_file_is_not_laid_at_the_gpus_door(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serve.engine import models
    from serve.errors import ModelLoadError

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(b"no model")
    monkeypatch.setattr(models.onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(models, "has_cuda", lambda: True)
    with pytest.raises(ModelLoadError, match=r"does not load: .*Protobuf"):
        models.load(tmp_path / "model", Settings(device="auto"))
    monkeypatch.setattr(models, "has_cuda", lambda: False)
    with pytest.raises(ModelLoadError, match="no CUDA device"):
        models.load(tmp_path / "model", Settings(device="cuda"))
