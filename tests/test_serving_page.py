"""The page in headless Chromium: order, watch, play, cancel, be told what is wrong."""

import shutil

import pytest
from serving_client import toy_server
from toy_worker import colour

from serving.keys import add

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# a frame of the clip is there; a Chromium built without H.264 has at least asked for it and got an mp4
PLAYS = """film => film.videoWidth === 16 ||
!film.canPlayType('video/mp4; codecs="avc1.64000a"') && film.error?.code === MediaError.MEDIA_ERR_SRC_NOT_SUPPORTED"""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with toy_server(tmp_path_factory.mktemp("served"), allow_original=True) as running:
        yield running


@pytest.fixture
def page(browser, server):
    opened = browser.new_page()
    faults = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.set_default_timeout(20_000)
    opened.goto(server.url)
    yield opened
    opened.close()
    assert not faults


def test_with_several_artifacts_one_is_chosen(browser, tmp_path):
    with toy_server(tmp_path, more={"cats": "other"}, allow_original=True) as server:
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.goto(server.url)
        page.get_by_text("pizza → hamburger").wait_for()
        page.get_by_label("Model").select_option("toy-cats")
        page.get_by_text("cat → hamburger").wait_for()
        page.get_by_label("Prompt").fill("a car")
        page.get_by_label("also with the original").check()
        page.get_by_role("button", name="Draw").click()
        page.get_by_text("Before (original)").wait_for()
        listed = server.http.get("/v1/videos").json()["data"]
        assert [v["model"] for v in listed] == ["toy-original", "toy-cats"] and listed[0]["seed"] == listed[1]["seed"]
        page.close()


def test_order_watch_and_play(page, server):
    page.get_by_text("ready", exact=True).wait_for()
    page.get_by_text("pizza → hamburger").wait_for()
    page.get_by_label("Prompt").fill("slow <b>car</b>")
    page.get_by_text("Choices").click()
    page.get_by_label("Steps").fill("20")
    page.get_by_label("Seed").fill("4")
    page.get_by_label("Prompt").press("Control+Enter")
    page.get_by_text("of 20").wait_for()
    page.wait_for_function("() => document.querySelector('progress').value > 10")
    film = page.locator("video").first
    film.wait_for()
    page.wait_for_function(f"() => ({PLAYS})(document.querySelector('video'))")
    assert page.get_by_text("slow <b>car</b>").is_visible() and page.get_by_text("seed 4").is_visible()
    page.get_by_label("Delete slow").click()
    film.wait_for(state="detached")
    assert server.http.get("/v1/videos").json()["data"] == []


COLOUR = """film => { if (!film.videoWidth) return null; const c = document.createElement("canvas").getContext("2d"); c.drawImage(film, 0, 0);
return [...c.getImageData(8, 8, 1, 1).data].slice(0, 3); }"""


def test_before_and_after_stand_side_by_side(page, server):
    page.get_by_label("Prompt").fill("a pair")
    page.get_by_label("also with the original encoder").check()
    page.get_by_text("Choices").click()
    page.get_by_label("Seed").fill("4")
    page.get_by_role("button", name="Draw").click()
    card = page.locator("#gallery li").filter(has=page.locator("video").nth(1))
    card.wait_for()
    assert card.locator("figcaption").all_inner_texts() == ["Before (original)", "After (edited)"]
    assert "seed 4 · encoder 00000000 · encoder ffffffff" in card.inner_text()
    page.wait_for_function(f"() => [...document.querySelectorAll('.pair video')].every({PLAYS})")
    for film, encoder in zip(card.locator("video").all(), ("original", "edited"), strict=True):
        drawn = film.evaluate(COLOUR)
        assert drawn is None or max(abs(a - b) for a, b in zip(drawn, colour(4, encoder), strict=True)) < 16
    left, right = (film.bounding_box() for film in card.locator("video").all())
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    page.get_by_label("Delete a pair").click()
    card.wait_for(state="detached")
    assert server.http.get("/v1/videos").json()["data"] == []


def test_an_error_goes_when_the_server_is_back(page, server):
    again = "document.dispatchEvent(new Event('visibilitychange'))"
    page.get_by_text("ready", exact=True).wait_for()
    page.route("**/*", lambda route: route.abort())
    page.evaluate(again)
    page.get_by_role("alert").get_by_text("The server cannot be reached.").wait_for()
    page.unroute("**/*")
    page.evaluate(again)
    page.get_by_role("alert").get_by_text("The server cannot be reached.").wait_for(state="detached")


def test_earlier_ones_go_on_from_what_is_still_there(browser, server):
    ids = [server.ended(server.order(f"number {i}")["id"])["id"] for i in range(5)]
    page = browser.new_page()
    page.route("**/v1/videos?limit=50*", lambda route: route.continue_(url=route.request.url.replace("50", "2", 1)))
    page.goto(server.url)
    page.get_by_text("number 4").wait_for()
    page.get_by_label("Delete number 3").click()  # the last one of its page
    page.get_by_text("number 2").wait_for()
    server.http.delete(f"/v1/videos/{ids[2]}")  # unknown to the page, it is the last one now
    page.get_by_role("button", name="Earlier ones").click()
    page.get_by_text("number 0").wait_for()
    assert page.locator("#gallery .prompt").all_inner_texts() == ["number 4", "number 1", "number 0"]
    assert page.get_by_role("alert").inner_text() == ""
    assert page.get_by_role("button", name="Earlier ones").is_hidden()
    page.get_by_label("Delete number 0").click()
    page.get_by_text("number 0").wait_for(state="detached")
    page.close()
    for id in ids:
        server.http.delete(f"/v1/videos/{id}")


def test_an_order_before_the_model_is_told_is_no_less_an_order(browser, server):
    page = browser.new_page()
    page.route("**/v1/models", lambda route: None)  # no answer
    page.goto(server.url)
    page.get_by_label("Prompt").fill("an early bird")
    page.get_by_role("button", name="Draw").click()
    server.until(lambda: "an early bird" in server.http.get("/v1/videos").text)
    page.close()


def test_cancel(page):
    page.get_by_label("Prompt").fill("slow dog")
    page.get_by_text("Choices").click()
    page.get_by_label("Steps").fill("100")
    page.get_by_role("button", name="Draw").click()
    page.get_by_text("of 100").wait_for()
    page.get_by_label("Cancel slow dog").click()
    page.get_by_text("Cancelled").wait_for()
    assert page.get_by_label("Cancel slow dog").count() == 0


def test_what_is_wrong_is_told(page):
    page.get_by_label("Prompt").fill("fail")
    page.get_by_role("button", name="Draw").click()
    page.get_by_text("this prompt cannot be drawn").wait_for()
    page.get_by_text("Choices").click()
    page.get_by_label("Frames", exact=True).fill("1000")
    page.get_by_role("button", name="Draw").click()
    page.get_by_role("alert").get_by_text("num_frames is 1000: the most is 32").wait_for()


def test_nothing_comes_from_elsewhere_and_a_phone_needs_no_sideways_scrolling(browser, server):
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    page.get_by_text("ready", exact=True).wait_for()
    assert all(url.startswith((server.url, "data:")) for url in asked)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") in ("TEXTAREA", "SUMMARY")
    context.close()


def test_a_key_is_asked_for(browser, tmp_path):
    token = add(tmp_path / "keys.json", "ann")
    with toy_server(tmp_path / "served", keys=str(tmp_path / "keys.json")) as server:
        page = browser.new_page()
        page.goto(server.url)
        page.get_by_text("This server asks for a key").wait_for()
        page.locator("#key").fill(token)
        page.get_by_role("button", name="Use it").click()
        page.get_by_text("pizza → hamburger").wait_for()
        page.get_by_label("Prompt").fill("a car")
        page.get_by_role("button", name="Draw").click()
        page.locator("video").wait_for()
        page.wait_for_function("() => document.querySelector('video').src.startsWith('blob:')")
        page.close()
