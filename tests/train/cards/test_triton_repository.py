"""The repository for Triton: read back by Triton's own messages, and run by ONNX Runtime."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper, save
from tritonclient.grpc import model_config_pb2 as pb

from train import export
from train.cards import triton_repository
from train.errors import UserError


def card(folder: Path, labels: list[str], files: tuple[str, ...] = ("model.onnx",)) -> Path:
    """A card whose network sums the pixels."""
    count = len(labels)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("Slice", ["flat", "zero", "count", "one"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 4, 5, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", count])
            for name in ("logits", "probabilities")
        ],
        [
            helper.make_tensor(name, TensorProto.INT64, [1], [value])
            for name, value in (("zero", 0), ("count", count), ("one", 1))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"labels": json.dumps(labels)})
    folder.mkdir()
    for file in files:
        save(model, folder / file)
    return folder


def parsed(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())


@pytest.mark.parametrize(("precision", "kind"), [("fp32", "KIND_AUTO"), ("int8", "KIND_CPU")])
def test_triton_reads_the_configuration(tmp_path: Path, precision: str, kind: str) -> None:
    labels = ["cat", "two words", "Übung", 'a "quote"\\']
    source = card(tmp_path / "my.dataset", labels, ("model.onnx", "model.int8.onnx"))
    (tmp_path / "repository" / "other").mkdir(parents=True)
    written = triton_repository.write(source, tmp_path / "repository", precision)
    assert written == tmp_path / "repository" / "my.dataset"
    assert sorted(str(path.relative_to(written)) for path in written.rglob("*")) == [
        "1", "1/model.onnx", "config.pbtxt", "labels.txt",
    ]  # fmt: skip
    assert (written / "labels.txt").read_text().splitlines() == labels
    config = parsed(written)
    assert (config.name, config.backend, config.max_batch_size) == ("my.dataset", "onnxruntime", 32)
    assert config.HasField("dynamic_batching")
    (group,) = config.instance_group
    assert pb.ModelInstanceGroup.Kind.Name(group.kind) == kind
    assert [entry.batch_size for entry in config.model_warmup] == [1, 32]
    assert all(list(entry.inputs["image"].dims) == [4, 5, 3] for entry in config.model_warmup)
    # The tensors are those of the file: with max_batch_size, Triton adds the batch in front.
    session = onnxruntime.InferenceSession(written / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    for tensors, described in ((session.get_inputs(), config.input), (session.get_outputs(), config.output)):
        assert [(tensor.name, tensor.shape[1:]) for tensor in tensors] == [
            (entry.name, list(entry.dims)) for entry in described
        ]
    assert [pb.DataType.Name(entry.data_type) for entry in (*config.input, *config.output)] == [
        "TYPE_UINT8", "TYPE_FP32", "TYPE_FP32",
    ]  # fmt: skip
    assert {entry.label_filename for entry in config.output} == {"labels.txt"}
    pixels = np.arange(2 * 60, dtype=np.uint8).reshape(2, 4, 5, 3)
    np.testing.assert_array_equal(session.run(["logits"], {"image": pixels})[0], [[0, 1, 2, 3], [60, 61, 62, 63]])


def test_names_are_quoted() -> None:
    for name in ('a"b', "back\\slash", "Übung", "tab\t"):
        config = text_format.Parse(triton_repository.config(name, [1, 1, 1], 2, "fp32"), pb.ModelConfig())
        assert config.name == name


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    source = card(tmp_path / "model", ["a", "b"])
    with pytest.raises(UserError, match=r"model has no model\.int8\.onnx; valid are fp32"):
        triton_repository.write(source, tmp_path / "repository", "int8")
    (source / "model.onnx").write_bytes(b"\xff\xff")
    with pytest.raises(UserError, match="is damaged; build it with"):
        triton_repository.write(source, tmp_path / "repository", "fp32")
    with pytest.raises(UserError, match=r"'a\\nb' is not one line"):
        triton_repository.write(card(tmp_path / "lines", ["a\nb", "c"]), tmp_path / "repository", "fp32")
    assert not (tmp_path / "repository").exists()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It builds what is missing or out of date first, and only that."""
    old, new = card(tmp_path / "old", ["a", "b"]), card(tmp_path / "new", ["a", "b"])
    built = []
    monkeypatch.setattr("train.training.models.chosen", lambda _: [old, new])
    monkeypatch.setattr(export, "outdated", lambda path: path == old)

    def build(cards: list[Path], _: int) -> Any:
        built.extend(cards)
        return iter(())

    monkeypatch.setattr(export, "export_all", build)
    repository = tmp_path / "repository"
    assert export.main(["--triton", str(repository)]) == 0
    assert built == [old]
    assert capsys.readouterr().out == f"{repository / 'old'}\n{repository / 'new'}\n"
    assert parsed(repository / "new").name == "new"
    # Written again, it is the same.
    before = (repository / "new" / "config.pbtxt").read_bytes()
    shutil.rmtree(repository / "new" / "1")
    assert export.main(["--triton", str(repository)]) == 0
    assert (repository / "new" / "config.pbtxt").read_bytes() == before
    assert (repository / "new" / "1" / "model.onnx").is_file()
