"""The commands that emulate the clouds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sync.cli.invocation import has_warehouse, invocation
from sync.cli.options import FLAG, Json
from sync.cli.output import err, out, print_json
from sync.cli.running import exit_by, run


def demo(
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", metavar=FLAG, help="Keep the warehouse, so that `nightshift sql` can look at it."
        ),
    ] = False,
    nights: Annotated[
        int, typer.Option("--nights", min=1, max=400, help="Nights of each of the two Beddit sleepers.")
    ] = 4,
    sessions: Annotated[
        int, typer.Option("--sessions", min=1, max=5000, help="Past data sessions of the BACE devices.")
    ] = 24,
    json: Json = False,
) -> None:
    """Copy two emulated clouds into an embedded PostgreSQL and show what arrived.

    An emulated Beddit cloud on this machine holds the nights of two sleepers: a dozen tracks and a raw
    signal of 140 samples a second each. An emulated BACE cloud holds the data sessions of a fleet of
    devices; some of them are running. The real pipeline copies everything. Nothing is configured, nothing
    leaves this machine, and unless you say --keep nothing stays.
    """
    settings = invocation.settings()
    from sync.commands.demo import SLEEPERS, kept_folder, run_demo, show_demo, workplace
    from sync.commands.emulated import CONFIG, command_using, this_program
    from sync.observe.display import plural, shows_bars, watching

    redactor = invocation.logging(settings, bars=shows_bars(err))
    if not json:
        what = f"{nights} {plural('night', nights)} each of {len(SLEEPERS)} sleepers"
        out.print(f"Emulating a Beddit cloud ({what})\nand a BACE cloud (a fleet of devices) ...")
    with workplace(settings, keep=keep) as folder, watching(err) as counts:
        summary = run(run_demo(folder, nights=nights, sessions=sessions, redactor=redactor, observer=counts))
    if json:
        print_json({**summary.totals, "seconds": round(summary.seconds, 2)})
    else:
        command = this_program(invocation.path)
        if keep and has_warehouse(settings):  # which is what `sql` would open otherwise
            command = command_using(kept_folder(settings) / CONFIG)
        show_demo(out, summary, command, kept=keep)
    exit_by(summary.outcomes)


def emulate(
    archive: Annotated[
        Path | None,
        typer.Option(
            "--archive", metavar="DIR", help="Serve saved Beddit session files instead, and no BACE cloud."
        ),
    ] = None,
    nights: Annotated[int, typer.Option("--nights", min=1, help="Nights of each Beddit sleeper.")] = 30,
    sessions: Annotated[
        int, typer.Option("--sessions", min=1, help="Past data sessions of the BACE devices.")
    ] = 60,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Where the synthetic clouds' chance comes from.")
    ] = 1,
    port: Annotated[int, typer.Option("--port", help="The Beddit API's port; 0 is any free one.")] = 0,
    blob_port: Annotated[
        int, typer.Option("--blob-port", help="The Beddit blob host's port; 0 is any free one.")
    ] = 0,
    bace_port: Annotated[
        int, typer.Option("--bace-port", help="The BACE API's port; 0 is any free one.")
    ] = 0,
    behave: Annotated[
        list[str] | None,
        typer.Option(
            "--behave",
            metavar="CLOUD.NAME=VALUE",
            help="Be another cloud than the default; `--behave help` lists how.",
        ),
    ] = None,
) -> None:
    """Serve emulated clouds on this machine until Ctrl-C, and write a configuration that uses them.

    Beddit holds the nights of two sleepers, BACE the data sessions of a fleet of devices: past ones, and
    short ones that begin, grow and end while it runs.
    """
    if behave == ["help"]:
        from sync.commands.emulate import list_switches

        typer.echo(list_switches())
        raise typer.Exit
    settings = invocation.settings()
    from sync.commands.emulate import Ports
    from sync.commands.emulate import emulate as serve_emulated
    from sync.emulators.beddit import Study

    invocation.logging(settings, bars=True)
    run(
        serve_emulated(
            settings.state_dir / "emulated",
            out,
            archive=archive,
            study=Study(seed=seed, nights=nights),
            sessions=sessions,
            ports=Ports(beddit=port, beddit_blobs=blob_port, bace=bace_port),
            behave=behave or [],
        ),
        farewell="the emulated clouds are gone",
    )
