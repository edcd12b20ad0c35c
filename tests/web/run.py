#!/usr/bin/env python3
"""The page in a real headless Chromium, against the real daemon in its simulated world.

    python3 tests/web/run.py [DIRECTORY of the two binaries, default target/debug]

Pictures of what was seen go to target/web/*.png: look at them. Debian: chromium chromium-driver.
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "python"))
from browser import Browser  # noqa: E402
import phone  # noqa: E402
from daemon import Pretended  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARIES = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/debug").resolve()
PICTURES = ROOT / "target/web"


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status, reply.headers, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


class Range:
    """A daemon and its page."""

    def __init__(self, folder):
        self.socket = f"{folder}/timesync.sock"
        self.daemon = None
        self.start_daemon()
        self.page = subprocess.Popen(
            [BINARIES / "leadville-timesync-web", "--socket", self.socket, "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE, text=True)
        self.url = self.page.stdout.readline().split()[-1]

    def start_daemon(self):
        self.daemon = subprocess.Popen(
            [BINARIES / "leadville-timesync", "--socket", self.socket, "run", "--simulate", "--plain"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not pathlib.Path(self.socket).exists():
            assert time.monotonic() < deadline, "the daemon does not start"
            time.sleep(0.05)

    def stop_daemon(self):
        self.daemon.terminate()
        self.daemon.wait(10)

    def command(self, *args):
        return subprocess.run([BINARIES / "leadville-timesync", "--socket", self.socket, *args],
                              capture_output=True, text=True, timeout=20)

    def close(self):
        self.daemon.terminate()
        self.page.terminate()
        assert self.page.wait(5) == 0, "the page's server does not end when told to"
        self.daemon.wait(10)


def the_page_loads_says_the_verdict_and_needs_nothing_from_elsewhere(here):
    with Browser() as browser:
        started = time.monotonic()
        browser.open(here.url)
        browser.until("return document.body.dataset.tone === 'good'", 40)
        paint = browser.run("return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1")
        assert 0 <= paint < 1000, f"first paint after {paint} ms"
        assert browser.text("word") == "The time is right"
        assert "of UTC" in browser.text("verdict"), browser.text("verdict")
        browser.until("return document.querySelector('#chart svg.tc polyline')")
        loaded = browser.run("return performance.getEntriesByType('resource').map(e => [e.name, e.encodedBodySize])")
        assert all(name.startswith(here.url) for name, _ in loaded), loaded
        whole = sum(len(get(here.url + part)[2]) for part in ("", "page.css", "page.js"))
        assert whole < 100_000, whole
        assert browser.complaints() == []
        browser.picture(PICTURES / "light.png")
        print(f"    first paint {paint:.0f} ms, page {whole} bytes, all after {time.monotonic() - started:.1f} s")


def numbers_change_and_events_come_live(here):
    with Browser() as browser:
        browser.open(here.url)
        browser.until("return document.body.dataset.tone === 'good'", 40)
        clock = browser.text("clock")
        browser.until(f"return document.getElementById('clock').innerText !== '{clock}'", 5)
        figures = browser.text("figures")
        browser.until(f"return document.getElementById('figures').innerText !== {json.dumps(figures)}", 20)
        assert here.command("lock", "--for", "2h").returncode == 0
        browser.until("return document.getElementById('events').innerText.includes('held still for match')", 5)
        browser.until("return !document.getElementById('locks-part').hidden && "
                      "document.getElementById('locks').innerText.includes('match')", 5)
        browser.picture(PICTURES / "locked.png")
        assert here.command("unlock").returncode == 0
        browser.until("return !document.getElementById('locks').innerText.includes('match')", 5)
        # The simulated shooter begins a string within half a minute.
        browser.until("return / shot \\d+ at \\d+\\.\\d\\d s/.test(document.getElementById('events').innerText)", 60)
        browser.until("return / is over, \\d+ shots/.test(document.getElementById('events').innerText)", 60)
        browser.picture(PICTURES / "shots.png")
        assert browser.complaints() == []


def it_says_so_when_the_daemon_stops_and_when_it_is_back(here):
    with Browser() as browser:
        browser.open(here.url)
        browser.until("return document.body.dataset.tone === 'good'", 40)
        here.stop_daemon()
        browser.until("return document.body.dataset.tone === 'bad'", 5)
        assert browser.text("word") == "No time daemon"
        assert "not running" in browser.text("verdict"), browser.text("verdict")
        browser.picture(PICTURES / "gone.png")
        code, _, text = get(here.url + "api/status")
        assert code == 503 and "systemctl start" in text, (code, text)
        assert "leadville_timesync_up 0\n" in get(here.url + "metrics")[2]
        here.start_daemon()
        browser.until("return document.body.dataset.tone === 'good'", 40)


def it_fits_a_phone_and_the_dark(here):
    for name, look in (("phone", {"width": 360, "height": 740}),
                       ("dark", {"dark": True}),
                       ("phone-dark", {"width": 390, "height": 844, "dark": True})):
        with Browser(**look) as browser:
            browser.open(here.url)
            browser.until("return document.body.dataset.tone === 'good'", 40)
            browser.until("return document.querySelector('#chart svg.tc polyline')")
            assert "--" not in browser.text("clock"), "the clock comes after the verdict"
            wide = browser.run("return document.documentElement.scrollWidth - window.innerWidth")
            assert wide <= 0, f"{name}: {wide} pixels too wide"
            assert browser.run("return document.querySelector('.verdict').getBoundingClientRect().bottom"
                               " < window.innerHeight / 2"), "the verdict is not seen at once"
            small = browser.run("return [...document.querySelectorAll('button')]"
                                ".filter(b => b.offsetParent && b.getBoundingClientRect().height < 32).length")
            assert small == 0, f"{name}: {small} buttons too small for a thumb"
            assert browser.complaints() == []
            browser.picture(PICTURES / f"{name}.png")


def names_are_words_and_never_markup(here):
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    status = json.loads(here.command("status", "--json").stdout)
    for server in status["servers"]:
        server.update(name=evil, why=evil)
    status.update(verdict=evil, hints=[evil], timers=[{"name": evil, "connected": True, "message": evil}],
                  locks=[{"name": evil, "ends_in_s": 60.0}])
    pretended = Pretended(status)
    page = subprocess.Popen([BINARIES / "leadville-timesync-web", "--socket", pretended.socket, "--listen", "127.0.0.1:0"],
                            stdout=subprocess.PIPE, text=True)
    try:
        with Browser() as browser:
            browser.open(page.stdout.readline().split()[-1])
            browser.until("return document.getElementById('verdict').innerText.includes('<img')", 10)
            pretended.tell({"event": "lock", "name": evil, "utc": "2026-11-26T14:00:00Z"})
            pretended.tell({"event": evil, "message": evil, "utc": evil})
            browser.until("return document.getElementById('events').innerText.includes('held still for <img')", 10)
            assert browser.run("return document.querySelectorAll('main img, main script').length") == 0
            assert "owned" not in browser.run("return document.title")
            assert browser.text("servers").count("<script>") >= len(status["servers"]), browser.text("servers")
            assert browser.run("return document.documentElement.scrollWidth - window.innerWidth") <= 0, "it runs over the edge"
            browser.picture(PICTURES / "markup.png")
    finally:
        page.terminate()
        page.wait(5)
        pretended.close()


def fifty_viewers_are_one_to_the_daemon(here):
    def look():
        with urllib.request.urlopen(here.url + "api/events", timeout=10) as stream:
            seen = sum(stream.readline().startswith(b"event: status") for _ in range(60))
            counts.append(seen)

    def asked():
        ticks = pathlib.Path(f"/proc/{here.daemon.pid}/stat").read_text().split()
        return (int(ticks[13]) + int(ticks[14])) / 100

    counts = []
    before, started = asked(), time.monotonic()
    viewers = [threading.Thread(target=look) for _ in range(50)]
    for viewer in viewers:
        viewer.start()
    for viewer in viewers:
        viewer.join(60)
    took, spent = time.monotonic() - started, asked() - before
    assert len(counts) == 50 and min(counts) >= 5, counts
    print(f"    50 viewers for {took:.0f} s cost the daemon {spent / took * 100:.1f} % of a core")
    assert spent / took < 0.10


def strangers_are_turned_away_politely(here):
    assert get(here.url + "nothing")[0] == 404
    assert get(here.url + "api/history?since=frog")[0] == 400
    try:
        urllib.request.urlopen(urllib.request.Request(here.url, b"{}", method="POST"), timeout=10)
        raise AssertionError("a POST was taken")
    except urllib.error.HTTPError as error:
        assert error.code == 405
    _, headers, _ = get(here.url)
    assert "default-src 'none'" in headers["content-security-policy"]


def a_small_process(here):
    status = pathlib.Path(f"/proc/{here.page.pid}/status").read_text()
    rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    print(f"    {rss} kB resident")
    # Of a debug build most is code.
    assert rss < (6 * 1024 if "release" in str(BINARIES) else 16 * 1024), rss


def a_phones_time_is_taken_after_a_yes_within_50_ms_and_gives_way_to_servers(_here):
    with tempfile.TemporaryDirectory() as folder:
        phone.a_phones_time_is_taken_after_a_yes_within_50_ms_and_gives_way_to_servers(BINARIES, folder, PICTURES)


def nobody_but_the_page_itself_may_send_a_phones_time(here):
    with tempfile.TemporaryDirectory() as folder:
        phone.nobody_but_the_page_itself_may_send_a_phones_time(BINARIES, folder, here)


TESTS = [the_page_loads_says_the_verdict_and_needs_nothing_from_elsewhere, numbers_change_and_events_come_live,
         it_fits_a_phone_and_the_dark, names_are_words_and_never_markup, fifty_viewers_are_one_to_the_daemon, strangers_are_turned_away_politely,
         a_phones_time_is_taken_after_a_yes_within_50_ms_and_gives_way_to_servers, nobody_but_the_page_itself_may_send_a_phones_time,
         a_small_process, it_says_so_when_the_daemon_stops_and_when_it_is_back]


def main():
    PICTURES.mkdir(parents=True, exist_ok=True)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        here = Range(folder)
        for test in TESTS:
            try:
                test(here)
                print(f"ok      {test.__name__.replace('_', ' ')}", flush=True)
            except Exception as error:  # noqa: BLE001 (each test is told of, and the next one runs)
                failed += 1
                print(f"FAILED  {test.__name__.replace('_', ' ')}: {error!r}", flush=True)
        here.close()
    print(f"{len(TESTS) - failed} of {len(TESTS)} passed; pictures in {PICTURES.relative_to(ROOT)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
