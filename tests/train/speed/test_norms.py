"""BatchNorm over processes: gradients and running statistics of one process that sees the whole batch."""

import copy
import socket
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from train.speed import norms

PROCESSES = 2
SHARES = (slice(0, 6), slice(6, 10))  # not of one size


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=None), nn.ReLU(), nn.Conv2d(8, 8, 3), BatchNormAct2d(8)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 25, 5)).double().train()


def compare(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=PROCESSES)
    whole = network()
    x, y = torch.randn(10, 3, 9, 9, dtype=torch.float64), torch.randint(0, 5, (10,))
    shared = copy.deepcopy(whole)
    assert norms.synchronize(shared, torch.device("cpu")) is shared
    wrapped = DistributedDataParallel(shared)
    for _ in range(2):
        F.cross_entropy(whole(x), y).backward()
        mine = F.cross_entropy(wrapped(x[SHARES[rank]]), y[SHARES[rank]], reduction="sum")
        (mine * PROCESSES / len(x)).backward()
    for a, b in zip(whole.parameters(), shared.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-12, rtol=1e-9)
    norms.unsynchronize(shared)
    assert [type(layer) for layer in shared.children()] == [type(layer) for layer in whole.children()]
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], value, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(whole.eval()(x), shared.eval()(x), atol=1e-12, rtol=1e-9)
    torch.distributed.destroy_process_group()


def test_shares_of_a_batch_are_normalised_as_the_whole() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    # Raises what a process raised.
    torch.multiprocessing.start_processes(compare, (port,), nprocs=PROCESSES, start_method="forkserver")


def test_on_gpus_activations_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: Any = norms.synchronize(network(), torch.device("cuda"))
    assert isinstance(converted[1], nn.SyncBatchNorm)
    assert isinstance(converted[4], nn.SyncBatchNorm)
    assert isinstance(converted[4].act, nn.ReLU)
