"""Updates as methods of `ModelRegistry`: the names and arguments of the published guide, each with a blocking twin.

The coroutines hand their work to a thread, so that a service that asks for updates goes on answering meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from robustidps.errors import ConfigError, RobustIDPSError
from robustidps.progress import Progress, silent

if TYPE_CHECKING:
    from robustidps.registry.registry import ModelRegistry
    from robustidps.updates.installing import Outcome
    from robustidps.updates.offers import Update

__all__ = ["Updating"]

log = logging.getLogger(__name__)


class Updating:
    """Joined to `ModelRegistry`."""

    async def check_for_updates(self, names: Sequence[str] | None = None) -> list[Update]:
        """The newest update of each registered model, or of `names`, that nothing speaks against. Downloads no model.

        An `Update`'s fields can be read as subscripts: `update["new_version"]`,
        `update["performance_metrics"]["accuracy_gain"]`, in percent, as the publisher says.

        Raises:
            ConfigError: no remote registry is named. NotFoundError: no root is pinned.
            UpdateError: it can't be trusted; nothing has changed. RemoteUnavailableError: it doesn't answer.
        """
        return await asyncio.to_thread(self.check_for_updates_sync, names)

    def check_for_updates_sync(
        self, names: Sequence[str] | None = None, *, progress: Progress = silent
    ) -> list[Update]:
        """`check_for_updates`, blocking."""
        from robustidps.updates import installing, offers

        registry = self._registry()
        return offers.check(registry, installing.open_remote(registry.settings), names, progress=progress)

    async def download_and_install_update(self, name: str, version: str, auto_activate: bool = False) -> bool:
        """Downloads, verifies, measures here and registers a version as Staging; with `auto_activate` it goes on to
        Production if the rules let it. True when all that was asked for is done.

        Raises:
            ModelValidationError: the rules say no, or it has to wait in Staging although `auto_activate` was asked for;
                what was in production is in production.
            BundleError, UpdateError: it can't be trusted; nothing of it was registered.
            NotFoundError: it isn't on offer. RemoteUnavailableError: no mirror answers.
        """
        return await asyncio.to_thread(self.download_and_install_update_sync, name, version, auto_activate)

    def download_and_install_update_sync(
        self, name: str, version: str, auto_activate: bool = False, *, progress: Progress = silent
    ) -> bool:
        """`download_and_install_update`, blocking."""
        from robustidps.updates import installing

        registry = self._registry()
        remote = installing.open_remote(registry.settings)
        installing.install(registry, remote, name, version, auto_activate=auto_activate, progress=progress)
        return True

    async def auto_update_loop(
        self,
        interval_hours: float = 6.0,
        *,
        rounds: int | None = None,
        after: Callable[[list[Outcome]], Any] | None = None,
    ) -> None:
        """Looks for updates and takes what the rules let in, every `interval_hours`, until it is cancelled.

        It is what the flow `auto_update` does, without Prefect. A round that fails (no mirror answers, the registry
        can't be trusted) is logged and on record; the next comes at its time.

        Args:
            rounds: so many, instead of without end.
            after: called with each round's outcomes.

        Raises:
            ConfigError: `enable_auto_update` is off, or no remote registry is named.
        """
        from robustidps.updates import installing

        registry = self._registry()
        if not registry.settings.enable_auto_update:
            raise ConfigError(
                "automatic updates are off",
                where="enable_auto_update",
                remedy="ModelRegistry(enable_auto_update=True), or ROBUSTIDPS_ENABLE_AUTO_UPDATE=true",
            )
        if not 0 < interval_hours < math.inf:
            raise ConfigError(f"{interval_hours} is no interval", where="interval_hours")
        remote = installing.open_remote(registry.settings)
        done = 0
        while rounds is None or done < rounds:
            if done:
                await asyncio.sleep(3600 * interval_hours)
            done += 1
            try:
                outcomes = await asyncio.to_thread(installing.run, registry, remote)
            except RobustIDPSError as error:
                log.error("updates: %s", error)
                continue
            for outcome in outcomes:
                log.info(
                    "%s: %s %s %s", outcome.name, outcome.outcome, outcome.version or "", "; ".join(outcome.reasons)
                )
            if after is not None:
                after(outcomes)

    def _registry(self) -> ModelRegistry:
        return cast("ModelRegistry", self)
