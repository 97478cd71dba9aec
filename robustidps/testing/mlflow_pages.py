"""A person at MLflow's pages, played in a headless browser: what tests and the docs' pictures click."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from robustidps.errors import UnavailableError

__all__ = ["open_browser", "set_alias", "show_model", "show_version"]

PATIENCE_MS = 60_000


@contextmanager
def open_browser(user: str = "", password: str = "") -> Iterator[Any]:
    """A page of Debian's Chromium, driven by Playwright. Raises UnavailableError where there is neither."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise UnavailableError("there is no chromium", remedy="apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        raise UnavailableError("playwright isn't installed", remedy="pip install 'robustidps[dev]'") from None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        try:
            known = {"username": user, "password": password} if user else None
            context = browser.new_context(http_credentials=known, viewport={"width": 1180, "height": 760})  # type: ignore[arg-type]
            page = context.new_page()
            page.set_default_timeout(PATIENCE_MS)
            yield page
        finally:
            browser.close()


def show_model(page: Any, url: str, name: str) -> None:
    """The model's page, with its versions and their aliases."""
    page.goto("about:blank")  # the pages differ after the # alone: else nothing is loaded anew
    page.goto(f"{url}/#/models/{name}")
    page.get_by_role("row").filter(has_text="Version 1").wait_for()
    _without_assistant(page)


def show_version(page: Any, url: str, name: str, number: str) -> None:
    """The page of one version, with its tags."""
    page.goto("about:blank")
    page.goto(f"{url}/#/models/{name}/versions/{number}")
    page.get_by_text("robustidps.digest").first.wait_for()
    _without_assistant(page)


def set_alias(page: Any, url: str, name: str, number: str, alias: str) -> None:
    """Models, the model, Aliases of a version, Add (or the pencil), the alias's name, Save."""
    show_model(page, url, name)
    row = page.get_by_role("row").filter(has_text=f"Version {number}")
    row.get_by_role("button").last.click()
    dialog = page.get_by_role("dialog").last
    dialog.get_by_role("combobox").fill(alias)
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Save aliases").click()
    dialog.wait_for(state="hidden")


def _without_assistant(page: Any) -> None:
    panel = page.get_by_role("button", name="Close", exact=True)
    if panel.count():
        panel.first.click()
