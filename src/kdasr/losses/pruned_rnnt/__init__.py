"""k2's pruned RNN-T interface in plain torch (Kuang et al. 2022, arXiv 2206.13236).

Names, arguments, shapes and results are those of `k2.rnnt_loss_*`; the functions here are the native
implementation. `select_backend` returns an object with the same functions, k2's own where it is installed.
This package needs nothing but torch and `kdasr.common`.
"""

from kdasr.losses.pruned_rnnt.backend import Backend, select_backend
from kdasr.losses.pruned_rnnt.full import rnnt_loss
from kdasr.losses.pruned_rnnt.pruned import rnnt_loss_pruned
from kdasr.losses.pruned_rnnt.pruning import do_rnnt_pruning, get_rnnt_prune_ranges
from kdasr.losses.pruned_rnnt.recursion import mutual_information_recursion
from kdasr.losses.pruned_rnnt.simple import rnnt_loss_simple, rnnt_loss_smoothed

__all__ = [
    "Backend",
    "do_rnnt_pruning",
    "get_rnnt_prune_ranges",
    "mutual_information_recursion",
    "rnnt_loss",
    "rnnt_loss_pruned",
    "rnnt_loss_simple",
    "rnnt_loss_smoothed",
    "select_backend",
]
