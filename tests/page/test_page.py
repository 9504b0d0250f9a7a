"""The page in a real browser (headless Chromium), before a real cluster of played cards."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import axe_playwright_python
import httpx
import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from tests.cluster.running import Up, needs_redis, running, until

ADMIN, OTHER = "an-admins-key-of-32-characters-xx", "a-users-key-that-has-32-characters"
AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
# No sandbox: tests run as root in a container; nothing but the cluster is opened. The others keep it from calling home.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
CONFIG = f"""
nodes: [{{name: played, simulate: "1x RTX 4090"}}]
models:
  "llama3.2:3b-instruct-q4_K_M": {{slots: 4, context: 4096, replicas: 2}}
  "llama3.1:8b-instruct-q4_K_M": {{slots: 2, context: 4096, replicas: 1}}
tiers:
  small: {{model: "llama3.2:3b-instruct-q4_K_M", backup: full}}
  full: {{model: "llama3.1:8b-instruct-q4_K_M"}}
routes: {{auto: {{}}}}
keys:
  - {{name: boss, secret: {ADMIN}, admin: true, limits: {{rpd: 1000}}}}
  - {{name: user, secret: {OTHER}}}
"""
WIDTHS = {"phone": (390, "dark"), "desk": (1280, "light"), "night desk": (1280, "dark"), "wall": (2560, "light")}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    needs_redis()
    folder = tmp_path_factory.mktemp("page")
    config = folder / "cluster.yaml"
    config.touch(mode=0o600)
    config.write_text(CONFIG)
    with running(folder / "state", config=config) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium: `apt-get install chromium`")
    expect.set_options(timeout=30_000)  # on a busy machine
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=program, args=FLAGS)
        yield started
        started.close()


class Opened:
    """A page that was opened with a key, and all that its console said."""

    def __init__(self, browser: Browser, url: str, width: int = 1280, scheme: str = "light", key: str = ADMIN) -> None:
        size: ViewportSize = {"width": width, "height": 900}
        self._context = browser.new_context(viewport=size, color_scheme="dark" if scheme == "dark" else "light")
        self.page: Page = self._context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda told: self.said.append(told.text))
        self.page.on("pageerror", lambda why: self.said.append(str(why)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(f"{url}/status")
        self.page.get_by_label("An admin's API key").fill(key)
        self.page.get_by_role("button", name="Watch").click()

    def close(self) -> None:
        self._context.close()


@pytest.fixture
def opened(up: Up, browser: Browser) -> Iterator[Opened]:
    page = Opened(browser, up.endpoint)
    expect(page.page.get_by_role("article", name="Node played")).to_be_visible()
    yield page
    page.close()


def ask(up: Up, question: str, model: str = "auto", tokens: int = 8) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": False}
    headers = {"Authorization": f"Bearer {ADMIN}"}
    return httpx.post(
        f"{up.endpoint}/api/chat", json={**body, "options": {"num_predict": tokens}}, headers=headers, timeout=60
    )


@pytest.mark.parametrize(("width", "scheme"), WIDTHS.values(), ids=WIDTHS)
def test_it_fits_from_phone_to_wall_and_axe_finds_nothing_serious(up, browser, width, scheme):
    opened = Opened(browser, up.endpoint, width, scheme)
    page = opened.page
    expect(page.get_by_role("article", name="Node played")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert not serious, json.dumps(serious, indent=1)[:3000]
    assert [each for each in opened.said if "401" not in each] == []
    opened.close()


def test_nothing_comes_from_elsewhere_and_the_key_is_in_no_address(up, opened):
    assert opened.asked
    assert all(each.startswith(f"{up.endpoint}/status") for each in opened.asked if not each.startswith("data:"))
    assert not any(ADMIN in each for each in opened.asked)


def test_the_cluster_is_drawn_as_it_is(up, opened):
    page = opened.page
    node = page.get_by_role("article", name="Node played")
    for each in httpx.get(f"{up.endpoint}/status.json", headers={"Authorization": f"Bearer {ADMIN}"}).json()["pools"]:
        for instance in each["instances"]:
            expect(node.get_by_role("button", name=f"{instance['id']}; show calls")).to_be_visible()
    bar = node.get_by_role("img", name=re.compile(r"RTX 4090 #0: weights and buffers \d+\.\d GiB, KV cache 4\.5 GiB"))
    expect(bar).to_be_visible()
    expect(page.get_by_text("CACHE ON")).to_be_visible()
    expect(page.get_by_text("SIMULATED", exact=True)).to_be_visible()
    expect(page.get_by_role("meter", name="key:boss rpd")).to_be_visible()


def test_a_call_is_seen_within_moments_and_the_calls_behind_a_number_are_shown(up, opened):
    page = opened.page
    cell = page.locator("#tiers tr", has=page.get_by_role("button", name="small; show calls")).locator("td").nth(3)
    before = int(cell.inner_text() or "0")
    answered = ask(up, f"Hello, who is there, {before}?")
    assert answered.headers["X-Tier"] == "small"
    expect(cell).to_have_text(str(before + 1))
    dialog = page.get_by_role("dialog", name=re.compile("Calls answered by small"))
    seen = 0
    while not seen:  # what was counted is written down within a second
        page.get_by_role("button", name="small; show calls").click()
        expect(dialog).to_be_visible()
        seen = dialog.get_by_text("boss").count()
        dialog.get_by_role("button", name="Close").click()
        expect(dialog).to_be_hidden()


def test_slots_are_lit_while_they_serve(up, opened):
    with ThreadPoolExecutor(2) as pool:
        calls = [
            pool.submit(ask, up, f"Tell me a long story, number {n}.", "llama3.1:8b-instruct-q4_K_M", 400)
            for n in (1, 2)
        ]
        expect(opened.page.get_by_role("img", name="2 of 2 slots at work")).to_be_visible(timeout=20_000)
        assert all(each.result().status_code == 200 for each in calls)
    expect(opened.page.get_by_role("img", name="0 of 2 slots at work")).to_be_visible(timeout=20_000)


def test_an_instance_is_drained_by_a_click_once_one_is_sure_and_it_is_known_who_did_it(up, opened):
    page = opened.page
    instance = next(each["id"] for each in states(up) if "3b" in each["id"])
    page.get_by_role("button", name=f"drain {instance}").click()
    sure = page.get_by_role("dialog", name="Sure?")
    expect(sure).to_contain_text(f"{instance} gets no new calls")
    sure.get_by_role("button", name="No").click()
    assert state_of(up, instance) == "serving"
    page.get_by_role("button", name=f"drain {instance}").click()
    sure.get_by_role("button", name="Yes").click()
    until(lambda: state_of(up, instance) == "draining", "it drains")
    again = page.get_by_role("button", name=f"undrain {instance}")
    expect(again).to_be_visible(timeout=20_000)
    again.click()
    sure.get_by_role("button", name="Yes").click()
    until(lambda: state_of(up, instance) == "serving", "it serves again")
    audited = [json.loads(line) for line in (up.state / "audit.jsonl").read_text().splitlines()]
    assert [(each["who"], each["by"], each["act"], each["what"]) for each in audited[-2:]] == [
        ("boss", "page", "drain", instance),
        ("boss", "page", "undrain", instance),
    ]


def test_answers_are_forgotten_from_the_page(up, opened):
    ask(up, "Hello, who is there, to be forgotten?")
    assert ask(up, "Hello, who is there, to be forgotten?").headers["X-Cache"].startswith("hit")
    opened.page.get_by_role("button", name="forget all kept answers").click()
    opened.page.get_by_role("dialog", name="Sure?").get_by_role("button", name="Yes").click()
    expect(opened.page.get_by_text(re.compile(r"\d+ answers are forgotten"))).to_be_visible()
    assert not ask(up, "Hello, who is there, to be forgotten?").headers["X-Cache"].startswith("hit")


def test_the_playground_asks_auto_and_says_what_answered_and_why(opened):
    page = opened.page
    page.get_by_label("Question").fill("Hello, who is there?")
    page.get_by_label("Route or model").select_option("auto")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer pre")).to_contain_text("[simulated")
    expect(page.locator("#answer dd").first).to_have_text("small")
    expect(page.locator("#answer")).to_contain_text("Server-Timing")


def test_what_a_record_says_is_no_markup_on_the_page(up, opened):
    ask(up, "Hello?", model="nobody")
    until(lambda: [*up.state.glob("calls/*/*.jsonl")], "a record is written")
    lines = max(up.state.glob("calls/*/*.jsonl"))
    told = json.loads(lines.read_text().splitlines()[-1])
    forged = {**told, "model": "<img src=x onerror=alert(1)>", "outcome": "forged"}
    lines.with_name(f"{lines.stem}-forged.jsonl").write_text(json.dumps(forged) + "\n")
    expect(opened.page.locator("#errors")).to_contain_text("<img src=x")
    assert opened.page.locator("#errors img").count() == 0


def test_machines_that_share_one_redis_are_told_apart_and_one_alone_is_not(opened):
    told = {"gateways": 2, "heard_s": 1.4, "controller": "leads", "why": ""}
    machines = [{**told, "name": "one:/srv"}, {**told, "name": "two:/srv", "controller": "stands by", "why": "no disk"}]
    draw = """told => { machines({machines: told});
        return [$("machines-part").hidden, [...$("machines").rows].map(row => row.innerText)]; }"""
    assert opened.page.evaluate(draw, machines) == [
        False,
        [
            "Machine\tGateways\tHeard of\tController",
            "one:/srv\t2\t1 s ago\tleads",
            "two:/srv\t2\t1 s ago\tstands by: no disk",
        ],
    ]
    assert opened.page.evaluate(draw, machines[:1])[0] is True


def test_it_is_worked_by_the_keyboard_alone(opened):
    page = opened.page
    page.reload()  # the key is kept as long as its tab is open
    expect(page.get_by_role("article", name="Node played")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    page.get_by_role("button", name="full; show calls").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name=re.compile("Calls answered by full"))).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name=re.compile("Calls answered by full"))).to_be_hidden()


def test_a_key_that_is_not_an_admins_sees_nothing(up, browser):
    opened = Opened(browser, up.endpoint, key=OTHER)
    expect(opened.page.get_by_text("this key is not an admin's")).to_be_visible()
    assert opened.page.locator("#content").is_hidden()
    opened.close()


def test_acts_need_an_admins_key_and_name_what_there_is(up):
    url, admin = f"{up.endpoint}/status/act", {"Authorization": f"Bearer {ADMIN}"}
    drain = {"act": "drain", "what": "nobody"}
    assert httpx.post(url, json=drain).status_code == 401
    assert httpx.post(url, json=drain, headers={"Authorization": f"Bearer {OTHER}"}).status_code == 403
    assert httpx.post(url, json=drain, headers={**admin, "Origin": "https://evil.example"}).status_code == 403
    assert httpx.post(url, json=drain, headers=admin).status_code == 404
    assert httpx.post(url, json={"act": "burn", "what": "x"}, headers=admin).status_code == 400
    assert httpx.post(url, content=b"[]", headers=admin).status_code == 400
    assert httpx.get(f"{up.endpoint}/status/calls", headers={"Authorization": f"Bearer {OTHER}"}).status_code == 403
    assert httpx.get(f"{up.endpoint}/status/calls?text=x", headers=admin).status_code == 400


def test_who_watches_does_not_keep_the_cluster_from_ending(up):
    """The last of this file: it ends a worker."""
    with httpx.stream(
        "GET", f"{up.endpoint}/status/live", headers={"Authorization": f"Bearer {ADMIN}"}, timeout=30
    ) as told:
        lines = told.iter_lines()
        assert json.loads(next(lines).removeprefix("data: "))["status"]["pools"]
        up.end()
        assert "" in list(lines)


def states(up: Up) -> list[dict[str, str]]:
    told = httpx.get(f"{up.endpoint}/status.json", headers={"Authorization": f"Bearer {ADMIN}"}).json()
    return [each for pool in told["pools"] for each in pool["instances"]]


def state_of(up: Up, instance: str) -> str:
    return next(each["state"] for each in states(up) if each["id"] == instance)
