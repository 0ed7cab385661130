"""Alarms on the character of a model in production: limits from normal traffic, and what went beyond them.

`log` reads what serving and monitoring write. `rules` makes the limits of the alarm rules, `delays` says how soon they
alarm; `job` ties these to a file. `live` holds answers against the limits one by one, `replay` does so with a log,
`doubt` asks a judge where the limits leave a doubt, `check` whether the limits are still right. `settings`, `result`,
`verdict` and `page` are those of every job.
"""

from typing import TYPE_CHECKING

from personavec.lazy import offering

if TYPE_CHECKING:
    from personavec.watching.check import check_limits
    from personavec.watching.job import calibrate_limits
    from personavec.watching.live import Watch
    from personavec.watching.replay import replay_log
    from personavec.watching.result import Limits
    from personavec.watching.settings import WatchSettings

__getattr__, __dir__ = offering(
    __name__,
    {
        "check": ["check_limits"],
        "job": ["calibrate_limits"],
        "live": ["Watch"],
        "replay": ["replay_log"],
        "result": ["Limits"],
        "settings": ["WatchSettings"],
    },
)

__all__ = ["Limits", "Watch", "WatchSettings", "calibrate_limits", "check_limits", "replay_log"]
