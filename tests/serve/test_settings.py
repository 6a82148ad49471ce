"""Settings: the command line, the environment, and the checks of values."""

from pathlib import Path

import pytest

from serve.__main__ import settings
from serve.settings import Settings, from_environment


def test_the_environment_sets_what_flags_do_not() -> None:
    found = from_environment(
        {"ZOO_SERVE_PORT": "9", "ZOO_SERVE_APP": "false", "ZOO_SERVE_MODELS": "x", "ZOO_SERVE_TIMEOUT": "1.5"}
    )
    assert Settings(**found) == Settings(port=9, app=False, models=Path("x"), timeout=1.5)
    assert "secret" not in repr(Settings(api_key="secret"))
    for key in ("", "secret\n", " secret", "sec\tret", "k\udcff"):
        with pytest.raises(ValueError, match="api_key") as refused:
            Settings(api_key=key)
        assert "sec" not in str(refused.value)
    for name, value in (("PORT", "many"), ("APP", "perhaps"), ("MAX_BATCH", "1.5")):
        with pytest.raises(ValueError, match=f"ZOO_SERVE_{name} is '{value}'"):
            from_environment({f"ZOO_SERVE_{name}": value})
    with pytest.raises(ValueError, match="ZOO_SERVE_MODELS is empty"):
        from_environment({"ZOO_SERVE_MODELS": ""})


def test_a_flag_wins_over_any_variable() -> None:
    """Kubernetes sets such a value for a Service named after the prefix."""
    broken = {"ZOO_SERVE_PORT": "tcp://10.96.0.1:8000", "ZOO_SERVE_MAX_BATCH": "0", "ZOO_SERVE_DEVICE": "tpu"}
    flags = ["--port", "9", "--max-batch", "8", "--device", "cpu"]
    assert settings(flags, broken) == Settings(port=9, max_batch=8, device="cpu")
    assert settings(["--no-app"], {"ZOO_SERVE_APP": "perhaps"}) == Settings(app=False)
    assert settings(["--port", "9"], {"ZOO_SERVE_PORT": "10", "ZOO_SERVE_TIMEOUT": "1.5"}) == Settings(
        port=9, timeout=1.5
    )


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"ZOO_SERVE_PORT": "tcp://10.96.0.1:8000"}, "ZOO_SERVE_PORT is 'tcp://10.96.0.1:8000'; it must be a number"),
        ({"ZOO_SERVE_MAX_BATCH": "0"}, "max_batch is 0; it must be at least 1"),
        ({"ZOO_SERVE_DEVICE": "tpu"}, "device is 'tpu'; valid are auto, cpu, cuda"),
    ],
)
def test_a_broken_variable_without_its_flag_ends_it(
    environment: dict[str, str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        settings([], environment)
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert words in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_the_prefix_is_the_project_s() -> None:
    """Variables that start with SERVE_ belong to others: Kubernetes sets them for a Service called `serve`."""
    assert settings([], {"SERVE_PORT": "tcp://10.96.0.1:8000", "SERVE_MODELS": "x", "SERVE_API_KEY": "x"}) == Settings()


def test_help_needs_no_valid_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        settings(["--help"], {"ZOO_SERVE_PORT": "many"})
    assert ended.value.code == 0
    assert "--port" in capsys.readouterr().out


def test_one_request_may_hold_what_the_queue_holds() -> None:
    assert Settings().max_images == 128
    assert Settings(max_queue=64).max_images == 64
    assert Settings(max_queue=64, max_images=8).max_images == 8
