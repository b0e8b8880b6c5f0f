"""The ranks of a run: processes that train one model together. All that knows of torch.distributed is here."""

import dataclasses
import datetime
import math
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader

T = TypeVar("T")

PATIENCE = datetime.timedelta(days=1)
"""How long ranks wait for each other. A lost rank is seen by who started it: this is for the base's first download."""


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This process among the ranks of its run; alone, it is the first of one.

    Attributes:
        rank: the number of this process, from 0.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that reports, decides and saves for all."""
        return self.rank == 0

    @property
    def are_several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    # -- what all know ---------------------------------------------------------------------------------------------

    def told(self, ask: Callable[[], int]) -> int:
        """What the first rank is answered, in all ranks; the others do not ask."""
        if not self.are_several:
            return ask()
        number = torch.tensor([ask() if self.is_first else 0])
        distributed.broadcast(number, src=0)
        return int(number.item())

    def total(self, number: int) -> int:
        """The sum of each rank's number, in all ranks."""
        if not self.are_several:
            return number
        summed = torch.tensor([number])
        distributed.all_reduce(summed)
        return int(summed.item())

    def most(self, number: int) -> int:
        """The largest of each rank's number, in all ranks."""
        if not self.are_several:
            return number
        largest = torch.tensor([number])
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest.item())

    def wait(self) -> None:
        """Returns when all ranks have come here."""
        self.total(0)

    def part(self) -> None:
        """Parts from the others when all have come here; each goes on alone."""
        if self.are_several:
            self.wait()
            distributed.destroy_process_group()

    def of_owners(self, owners: Sequence[int], values: Tensor) -> Tensor:
        """Values of which each rank has computed some, whole in all ranks.

        Args:
            owners: the rank that has computed each value.
            values: as this rank has them, shape (values,).
        """
        if not self.are_several:
            return values
        gathered = [torch.empty_like(values) for _ in range(self.count)]
        distributed.all_gather(gathered, values)
        return torch.stack(gathered)[torch.tensor(owners), torch.arange(len(owners))]

    def from_rank(self, owner: int, value: Tensor) -> Tensor:
        """One rank's value in all ranks; the others give one of the same shape."""
        if self.are_several:
            distributed.broadcast(value, src=owner)
        return value

    # -- what each does --------------------------------------------------------------------------------------------

    def owner(self, number: int) -> int:
        """The rank whose share an item is in; items are dealt out in turn."""
        return number % self.count

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's share of items, as many for each rank: where they do not divide, some have the last one too.

        With FSDP all ranks must make as many forward passes.
        """
        rounds = math.ceil(len(items) / self.count)
        return [items[min(turn * self.count + self.rank, len(items) - 1)] for turn in range(rounds)]

    def collating_its_part(self, collate: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
        """Makes a batch of this rank's part of a whole batch's rows.

        A rank for which none is left, at the end of an epoch, has a row without a label: it adds nothing to the sum.
        """

        def collate_part(rows: list[Any]) -> Any:
            own = rows[self.rank :: self.count]
            return collate(own or [{**rows[0], "labels": [-100] * len(rows[0]["labels"])}])

        return collate_part

    def read_whole_batches(self, loader: DataLoader[Any]) -> None:
        """Has a data loader of accelerate's give each rank every batch, as on one device.

        Accelerate would deal out whole batches, and fill up the last ones of an epoch with rows that it has had. What
        transformers does for its own `BatchRebalanceSampler`.
        """
        sampler: Any = loader.batch_sampler
        sampler.num_processes, sampler.process_index, sampler.even_batches = 1, 0, False

    def draw_apart(self, seed: int) -> None:
        """Has each rank draw other random numbers from now on: equal ones would drop the same inputs in each."""
        if not self.is_first:
            torch.manual_seed(seed + self.rank)


ALONE = Ranks()
"""The only process of its run."""


def join(rank: int, count: int, meeting: Path) -> Ranks:
    """Makes this process one of several ranks on this machine.

    Args:
        rank: its number.
        count: how many there are.
        meeting: a file that is not there yet, where the ranks find each other: two runs could race for a port.
    """
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(rank)
    os.environ.update(_environment(rank, count))
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=count,
        timeout=PATIENCE,
    )
    return Ranks(rank, count)


def _environment(rank: int, count: int) -> dict[str, str]:
    """What accelerate reads, and what keeps gloo and NCCL on the loopback device."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    return {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank)},
        **{"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)},
        **{"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback},
        **{"ACCELERATE_USE_CPU": "false" if torch.cuda.is_available() else "true"},
    }
