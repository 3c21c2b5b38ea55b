"""
Takes the screenshots of the page on Airflow, in light and dark: ``shots.py ADDRESS PASSWORD REPORT FOLDER``, while it runs.

    HEADRACE_AIRFLOW_SHOTS=docs/pages/assets nox -s airflow -- --standalone

makes them of the run that the tests kill. Chromium is that of the tests of our own pages.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import urllib.request
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Page, Playwright, sync_playwright

from headrace.testing.servers import chromium

OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
]


def main(base: str, password: str, report: str, folder: str) -> None:
    run, asset = newest_run(base, password)
    paths = {
        "grid": f"{base}/dags/bronze_to_silver",
        "graph": f"{base}/dags/bronze_to_silver/runs/{quote(run)}",
        "assets": f"{base}/assets/{asset}",
        "report": Path(report).as_uri(),
    }
    with sync_playwright() as player:
        for scheme in ("light", "dark"):
            take(player, scheme, base, password, paths, Path(folder))


def take(player: Playwright, scheme: str, base: str, password: str, paths: dict[str, str], folder: Path) -> None:
    with tempfile.TemporaryDirectory() as profile:
        fonts = chromium.Chromium(folder=Path(profile)).environment()
        browser = player.chromium.launch_persistent_context(
            profile,
            executable_path=chromium.folder() / "chromium",
            env={**os.environ, **fonts},
            headless=True,
            viewport={"width": 1360, "height": 760},
            color_scheme=scheme,
            args=OPTIONS,
        )
        page = browser.new_page()
        page.set_default_timeout(120_000)  # a busy machine's
        page.goto(f"{base}/", wait_until="networkidle")
        page.fill('input[name="username"]', "admin")
        page.fill('input[name="password"]', password)
        page.click('button[type="submit"]')
        page.wait_for_selector('input[name="username"]', state="detached")  # it takes a busy server seconds to say yes
        page.wait_for_load_state("networkidle")
        page.evaluate("scheme => localStorage.setItem('theme', scheme)", scheme)
        for name, address in paths.items():
            page.goto(address, wait_until="networkidle")
            if name == "graph":
                show_graph(page)
            page.wait_for_function("!document.querySelector('[class*=skeleton]')")  # where something is still to come
            page.wait_for_timeout(5_000)  # the graph is laid out, and moves, after all has come
            dark = "-dark" if scheme == "dark" else ""
            page.screenshot(path=str(folder / f"airflow-{name}{dark}.png"))
        browser.close()


def show_graph(page: Page) -> None:
    button = page.get_by_label("Graph").first
    if button.count():
        button.click()


def newest_run(base: str, password: str) -> tuple[str, int]:
    """The last run in which something was loaded, and the asset that it rings."""

    def ask(path: str, token: str = "", body: object = None) -> dict:
        request = urllib.request.Request(base + path, data=body and json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    token = ask("/auth/token", body={"username": "admin", "password": password})["access_token"]
    loads = ask("/api/v2/dags/bronze_to_silver/dagRuns/~/taskInstances?limit=1000", token)["task_instances"]
    ended = [(t["end_date"], t["dag_run_id"]) for t in loads if (t["task_id"], t["state"]) == ("load", "success")]
    assets = ask("/api/v2/assets?name_pattern=headrace_silver_sound", token)["assets"]
    return max(ended)[1], assets[0]["id"]


if __name__ == "__main__":
    main(*sys.argv[1:])
