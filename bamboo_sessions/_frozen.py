"""Values that never change, held to it by the type checker and not by the interpreter.

A frozen attrs class is filled through one `object.__setattr__` call a field: at a dozen values of up to twenty fields a
save, that is a third of what a save costs beside the disk. So the values that only this package builds and passes on are
frozen for whoever checks types (everybody: the package is checked strictly, and its types are shipped), and plain slots
at run time. What people hold in their hands (`Message`, `PendingQuestion`, summaries, results) is frozen for real.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrs import frozen as frozen  # noqa: PLC0414 - re-exported
else:
    from attrs import define as frozen

__all__ = ["frozen"]
