"""Decides what a newcomer sees first: a temporary daemon that trains a ticket classifier and uses it, step by step.

Everything goes over HTTP, as it would for anybody. What the demo makes is removed at its end, except the exported
sentence encoder, which stays in the cache directory for the first real start.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from reflexd.client import DEFAULT_URL, Client
from reflexd.errors import ServerUnreachable

NAME = "support-tickets"
START_SECONDS = 300.0
TRAIN_SECONDS = 300.0
STOP_SECONDS = 15.0
BAR = 24

TICKETS = {
    "billing": [
        "There are two identical charges from you on my card statement",
        "Please refund the payment that was taken after I had cancelled",
        "Why is my invoice ten euros higher than in spring?",
        "The VAT number is missing on the receipt you sent",
        "My card was declined although there is money on the account",
        "Can I pay by bank transfer instead of credit card?",
        "You charged the yearly price, but I chose to pay month by month",
        "I need a copy of all invoices of last year for my accountant",
        "The discount code was not taken off the total",
        "When will the money for the cancelled order be paid back?",
        "We were billed for twelve seats and have only nine people",
        "I do not recognise this charge on my bank account",
    ],
    "bug": [
        "The app crashes as soon as I open the settings page",
        "Search returns an empty page although the document exists",
        "I get error 500 when I upload a file bigger than ten megabytes",
        "The dashboard stays white in Firefox after the last update",
        "Notifications arrive three times for the same comment",
        "The export writes broken characters instead of umlauts",
        "Dragging a card to another column makes it disappear",
        "The page keeps loading for ever when I click on reports",
        "Sorting by date puts December before January",
        "The mobile app freezes when the phone is turned sideways",
        "The save button does nothing and no message is shown",
        "Times in the calendar are off by one hour since Sunday",
    ],
    "account": [
        "I forgot my password and the reset mail never arrives",
        "How do I change the e-mail address I sign in with?",
        "Please delete my account and everything in it",
        "My account is locked after too many sign-in attempts",
        "I lost the phone with my two-factor codes",
        "A colleague has left, please move her login to me",
        "I want to change my user name after my wedding",
        "The invitation link for my new colleague has expired",
        "Somebody else seems to be logged in to my account",
        "I cannot sign in although the password is right",
        "Can one person belong to two workspaces with one login?",
        "How do I make another person an administrator?",
    ],
    "feature": [
        "It would be great to have a dark mode",
        "Could you add an integration with our chat tool?",
        "Please let us export reports as a spreadsheet",
        "I would love to have keyboard shortcuts for everything",
        "Is a version for tablets planned?",
        "An undo button for deleted cards would help us a lot",
        "Please add support for repeating tasks",
        "We wish for a way to tag several items at once",
        "Could the weekly summary also come as a mail?",
        "A calendar view next to the list would be wonderful",
        "Please offer the interface in Portuguese as well",
        "It would be nice if templates could be shared between teams",
    ],
}
QUESTION, ANSWER = "I was billed twice this month", "billing"
NEW_TEXTS = [
    QUESTION,
    "The screen goes black when I press print",
    "I cannot log in since I got a new phone",
    "Could you add a button to copy a project?",
    "Where do I find the receipt for March?",
]


class Daemon:
    """A daemon of the demo's own, in a directory of its own, on a port that nobody else uses."""

    def __init__(self, root: Path) -> None:
        self.data_dir = root / "data"
        self.log = root / "daemon.log"
        self.url = f"http://127.0.0.1:{_free_port()}"
        command = [sys.executable, "-m", "reflexd", "serve", "--data-dir", str(self.data_dir)]
        command += ["--host", "127.0.0.1", "--port", self.url.rpartition(":")[2]]
        with self.log.open("wb") as log:
            # Its own session: Ctrl-C is for the demo, which then stops the daemon in good order.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait_until_ready(self, console: Console) -> Client:
        """Return a client with the first key once the daemon can serve; raises ClickException when it cannot."""
        begun, told = time.monotonic(), False
        with console.status("Starting ..."):
            while time.monotonic() - begun < START_SECONDS:
                self.check()
                with contextlib.suppress(ServerUnreachable):
                    status, body = Client(self.url, "").readiness()
                    if status == 200:
                        console.print(f"  ready after {time.monotonic() - begun:.1f} s")
                        return Client(self.url, (self.data_dir / "initial-api-key").read_text().strip())
                    if not told:
                        told = True
                        for reason in body["reasons"].values():
                            console.print(f"  {reason} (the first start on a machine takes about 20 s) ...")
                time.sleep(0.2)
        raise click.ClickException(f"the daemon was not ready after {START_SECONDS:.0f} s.{self._last_words()}")

    def check(self) -> None:
        """Raise ClickException with the last lines of the log when the daemon has ended."""
        if (status := self._process.poll()) is not None:
            raise click.ClickException(f"the daemon has ended with status {status}.{self._last_words()}")

    def stop(self) -> None:
        """End the daemon: in good order if it can, else at once."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-8:]
        return " Its last lines:\n" + "\n".join(f"    {line}" for line in lines) if lines else " It said nothing."


class Interrupted(BaseException):
    """Somebody wants the demo to end; not KeyboardInterrupt, which Python may turn into a death by signal."""


class Interrupts:
    """Ctrl-C, SIGTERM and SIGHUP: each ends the demo in good order, but never half way through starting its daemon."""

    def __init__(self) -> None:
        self._allowed = self._pending = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._arrived)

    def allow(self) -> None:
        """Raise Interrupted at a signal from now on, and at once for one that has arrived."""
        self._allowed = True
        if self._pending:
            raise Interrupted

    def ignore(self) -> None:
        """Let no signal interrupt any more."""
        self._allowed = False

    def _arrived(self, *_: object) -> None:
        self._pending = True
        if self._allowed:
            raise Interrupted


def run(keep: bool) -> None:
    """Show training and classifying in a temporary daemon; `keep` leaves its directory for a closer look."""
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    interrupts = Interrupts()
    root = Path(tempfile.mkdtemp(prefix="reflexd-demo-"))
    try:
        with _running(root, interrupts) as daemon:
            console.print(f"Starting a temporary daemon at {daemon.url}")
            try:
                _show(daemon, console)
            except ServerUnreachable as error:
                daemon.check()
                raise click.ClickException(str(error)) from error
        _say_what_next(console, root if keep else None)
    except Interrupted:
        console.print("\nInterrupted; the daemon is stopped.")
        sys.exit(130)
    finally:
        if keep:
            console.print(f"\nKept: {root} (data directory, daemon.log)")
        else:
            shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def _running(root: Path, interrupts: Interrupts) -> Iterator[Daemon]:
    daemon = Daemon(root)
    try:
        interrupts.allow()
        yield daemon
    finally:
        interrupts.ignore()  # an impatient second Ctrl-C must not leave a daemon behind
        daemon.stop()


def _show(daemon: Daemon, console: Console) -> None:
    client = daemon.wait_until_ready(console)
    rows = [{"text": text, "label": label} for label, texts in TICKETS.items() for text in texts]
    console.print(f"\nTraining {NAME!r} from {len(rows)} support tickets with the labels {', '.join(TICKETS)}")
    job = client.post("/v1/fine_tuning/jobs", {"suffix": NAME, "training_data": rows})
    begun = time.monotonic()
    job = _follow(client, job["id"], begun, console)
    if job["status"] != "succeeded":
        raise click.ClickException(f"the job ended as {job['status']}: {(job['error'] or {}).get('message')}")
    result = job["result"]
    console.print(f"  trained in {time.monotonic() - begun:.1f} s")
    console.print(f"  held-out accuracy {result['accuracy']:.2f} on {result['n']} tickets, by {result['method']}")
    console.print("\nClassifying texts that it has never seen")
    table = Table("text", "label", "confidence", "ms", box=None)
    first: dict[str, Any] = {}
    for text in NEW_TEXTS:
        answer = client.post("/v1/reflex/predict", {"model": NAME, "text": text})
        first = first or answer
        table.add_row(text, answer["label"], f"{answer['confidence']:.2f}", f"{answer['inference_time_ms']:.1f}")
    console.print(table, width=console.width if console.is_terminal else 100)
    if first["label"] != ANSWER:
        raise click.ClickException(f"{QUESTION!r} came out as {first['label']} and not as {ANSWER}: this is a bug")


def _follow(client: Client, job_id: str, begun: float, console: Console) -> dict[str, Any]:
    """Print a job's events as they come, and return the job once it has ended."""
    after, highest = "", 0.0
    with console.status("Training ..."):
        while time.monotonic() - begun < TRAIN_SECONDS:
            job: dict[str, Any] = client.get(f"/v1/fine_tuning/jobs/{job_id}")
            events = client.get(f"/v1/fine_tuning/jobs/{job_id}/events?limit=100{after}")["data"]
            for event in events:
                after = f"&after={event['id']}"
                loss = event["data"].get("train_loss") if event["type"] == "metrics" else None
                highest = max(highest, loss or 0.0)
                bar = "" if loss is None else "  " + "#" * round(BAR * loss / (highest or 1.0))
                console.print(f"  {time.monotonic() - begun:5.1f} s  {event['message']}{bar}")
            if job["finished_at"] is not None:
                return job
            time.sleep(0.1)
    raise click.ClickException(f"the job had not ended after {TRAIN_SECONDS:.0f} s")


def _say_what_next(console: Console, root: Path | None) -> None:
    """Print the three commands that lead to an own classifier, or to the kept one."""
    beside = Path(sys.executable).with_name("reflexd")
    found = shutil.which("reflexd")
    program = "reflexd" if found and Path(found).samefile(beside) else shlex.quote(str(beside))
    if root is not None:
        data_dir = shlex.quote(str(root / "data"))
        serve, key = f"{program} serve --data-dir {data_dir}", f'"$(cat {data_dir}/initial-api-key)"'
        use = f"{program} predict {NAME} {shlex.quote(QUESTION)}"
        after = "The kept daemon answers with the classifier that you have just seen."
    else:
        serve, key = f"{program} serve", f"$({program} keys create me)"
        use = _first_job()
        after = f'Then:  {program} predict mood "What a lovely day"'
    console.print("\nThree commands to type next, the first one in a terminal of its own:\n")
    for command in (serve, f"export REFLEXD_API_KEY={key}", use):
        console.print(command + "\n")
    console.print(after)
    if not shutil.which("curl"):
        console.print("curl is not installed here: `apt-get install curl`, or use Python as README.md shows.")
    console.print("The same with the OpenAI SDK, and all the rest: README.md")


def _first_job() -> str:
    """Return a curl command that trains the smallest classifier there can be: two labels with five rows each."""
    moods = {
        "good": ("I love it", "What a great day", "This made me smile", "Wonderful news", "I am so happy"),
        "bad": ("I hate it", "What an awful day", "This made me cry", "Terrible news", "I am so sad"),
    }
    rows = [f'{{"text": "{text}", "label": "{label}"}}' for label, texts in moods.items() for text in texts]
    listed = ",\n  ".join(rows)
    return (
        f'curl {DEFAULT_URL}/v1/fine_tuning/jobs -H "Authorization: Bearer $REFLEXD_API_KEY" -d \'{{"suffix": "mood",'
        f' "training_data": [\n  {listed}]}}\''
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
