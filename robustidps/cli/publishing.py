"""`robustidps publish`: a publisher's side of signed model updates."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustidps import console
from robustidps.cli._app import app, current_settings, open_registry
from robustidps.cli._options import Json
from robustidps.errors import ConfigError

if TYPE_CHECKING:
    from robustidps.updates.publishing import Publisher
    from robustidps.updates.staging import Publication

publish_app = typer.Typer(
    no_args_is_help=True, help="Publish model versions, signed, as files for any web server (docs/publishing.md)."
)
app.add_typer(publish_app, name="publish", rich_help_panel="Updates")


def _staged_roles(incomplete: str) -> list[str]:
    """Roles that something is staged for, in the default folder or that of the environment."""
    folder = current_settings().home / "publisher" / "staged" / "metadata"
    return sorted(f.stem for f in folder.glob("*.json") if f.stem.startswith(incomplete))


Folder = Annotated[
    Path | None,
    typer.Option("--folder", envvar="ROBUSTIDPS_PUBLISH_FOLDER", help="publisher's folder; default: HOME/publisher"),
]
Keys = Annotated[
    list[Path] | None,
    typer.Option("--keys", help="a folder of keys, e.g. on a stick; may be repeated; beside FOLDER/keys"),
]
WithRealRows = Annotated[
    bool, typer.Option("--with-real-rows", help="golden rows may be of real traffic, and shall be published")
]


@publish_app.command("init")
def publish_init(
    offline_key: Annotated[
        list[str] | None,
        typer.Option("--offline-key", help="who signs root and targets; repeated; default: offline-1 to offline-3"),
    ] = None,
    threshold: Annotated[
        int | None, typer.Option(min=1, help="signatures that root and targets take; default 2")
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option("--role", help="ROLE=KEY,KEY:THRESHOLD, e.g. snapshot=a,b:1; repeated; over the options before"),
    ] = None,
    expires: Annotated[
        list[str] | None,
        typer.Option(help="ROLE=DAYS; repeated; default root=365, targets=90, snapshot=7, timestamp=1"),
    ] = None,
    folder: Folder = None,
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Begin a repository: keys, root, and an empty list of families."""
    from robustidps.updates.publishing import DEFAULT_ROLES, RoleKeys

    default = DEFAULT_ROLES["root"]
    names = tuple(offline_key) if offline_key else default.keys
    offline = RoleKeys(names, threshold or min(default.threshold, len(names)))
    roles = {"root": offline, "targets": offline}
    for text in role or []:
        name, equals, rest = text.partition("=")
        listed, _, count = rest.partition(":")
        if not equals or not listed or not (count or "1").isdigit():
            raise ConfigError(f"{text!r} is not of the form ROLE=KEY,KEY:THRESHOLD", where="--role")
        roles[name] = RoleKeys(tuple(listed.split(",")), int(count or 1))
    days = {}
    for text in expires or []:
        name, _, rest = text.partition("=")
        try:
            days[name] = float(rest)
        except ValueError:
            raise ConfigError(f"{text!r} is not of the form ROLE=DAYS", where="--expires") from None
    publisher = _publisher(folder, keys)
    done = publisher.init(roles, days)
    status = publisher.status()
    if as_json:
        console.emit_json(_plain(done) | {"fingerprint": status.fingerprint, "root": status.root})
        return
    _tell(done)
    if status.root:
        console.line("root", str(status.root))
        console.line("its SHA-256", status.fingerprint or "")
        console.remark("give both to every installation out of band: the file, and the fingerprint by another way")
    console.remark(f"take the offline keys off this machine: {publisher.ring.folders[0]}")


@publish_app.command("key")
def publish_key(
    name: Annotated[str, typer.Argument(help="what the key is called")],
    folder: Folder = None,
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Make a key: NAME.pem, encrypted, and NAME.pub, in the first folder of keys."""
    publisher = _publisher(folder, keys)
    made = publisher.make_key(name)
    where = publisher.ring.folders[0]
    if as_json:
        console.emit_json({"name": name, "id": made, "folder": where})
    else:
        console.line(name, f"{made}, in {where}", "green")


@publish_app.command("add")
def publish_add(
    bundles: Annotated[list[Path] | None, typer.Argument(help="folders of bundles", show_default=False)] = None,
    from_registry: Annotated[
        tuple[str, str] | None,
        typer.Option("--from-registry", metavar="NAME VERSION", help="a version that is registered here"),
    ] = None,
    with_real_rows: WithRealRows = False,
    folder: Folder = None,
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Publish versions: each bundle is verified, packed, signed, and added to its family."""
    from robustidps.progress import current

    given = list(bundles or [])
    if not given and from_registry is None:
        raise ConfigError("nothing to publish", where="publish add", remedy="name a bundle, or --from-registry")
    publisher = _publisher(folder, keys)
    with ExitStack() as stack:
        if from_registry is not None:
            registry = open_registry()
            given.append(stack.enter_context(registry.bundle(*from_registry)).path)
        stack.enter_context(console.bars(not as_json))
        done = publisher.add_many(given, with_real_rows=with_real_rows, progress=current())
    _show(done, as_json)


@publish_app.command("delegate")
def publish_delegate(
    family: Annotated[str, typer.Argument(help="a family, new or published")],
    key: Annotated[list[str], typer.Option("--key", help="who signs it from now on; may be repeated")],
    threshold: Annotated[int, typer.Option(min=1, help="signatures that it takes")] = 1,
    folder: Folder = None,
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Give a family keys of its own."""
    _show(_publisher(folder, keys).delegate(family, key, threshold), as_json)


@publish_app.command("sign")
def publish_sign(
    role: Annotated[
        str | None, typer.Argument(help="default: all that is staged", autocompletion=_staged_roles)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="sign without asking")] = False,
    folder: Folder = None,
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Add signatures to what is staged; publish what has enough of them. Shows first what would be signed."""
    publisher = _publisher(folder, keys)
    if not yes and not as_json:
        for each in publisher.status().roles:
            for text in each.staged if role in (None, each.role) else ():
                console.line(each.role, text)
        typer.confirm("sign this?", abort=True)
    signed, done = publisher.sign(role)
    if as_json:
        console.emit_json(_plain(done) | {"signed": signed})
        return
    for name, names in signed.items():
        console.line(f"signed {name}", f"by {', '.join(names)}" if names else "by none of the keys here")
    _tell(done)


@publish_app.command("refresh")
def publish_refresh(folder: Folder = None, keys: Keys = None, as_json: Json = False) -> None:
    """Renew timestamp, snapshot and what expires soon; publish what waited for that. For cron."""
    done, late = _publisher(folder, keys).refresh()
    if as_json:
        console.emit_json(_plain(done) | {"due": late})
        return
    _tell(done)
    for each, why in late.items():
        console.line(f"{each} expires soon", why, "yellow")


@publish_app.command("rotate-key")
def publish_rotate_key(
    old: Annotated[str, typer.Argument(help="a key's name, or its id")],
    new: Annotated[str, typer.Argument(help="the key in its place; make it with `publish key`")],
    role: Annotated[str | None, typer.Option("--role", help="in this role or family alone; default: in all")] = None,
    folder: Folder = None,
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Put a key in the place of another; what it signed is signed anew."""
    _show(_publisher(folder, keys).rotate_key(role, old, new), as_json)


@publish_app.command("revoke")
def publish_revoke(
    name: Annotated[str | None, typer.Argument(help="a model")] = None,
    version: Annotated[str | None, typer.Argument(help="its version")] = None,
    key: Annotated[str | None, typer.Option("--key", help="a key instead, by name or id: out of every role")] = None,
    folder: Folder = None,
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Take a version, or a key, out of the repository."""
    if (key is None) == (name is None or version is None) or (key and name):
        raise ConfigError("takes NAME VERSION, or --key KEY", where="publish revoke")
    publisher = _publisher(folder, keys)
    _show(publisher.revoke_key(key) if key else publisher.revoke(name or "", version or ""), as_json)


@publish_app.command("status")
def publish_status(folder: Folder = None, keys: Keys = None, as_json: Json = False) -> None:
    """Show roles, who signs them, when they expire, what waits for whom, and the versions."""
    status = _publisher(folder, keys).status()
    if as_json:
        console.emit_json(status.to_dict())
        return
    rows = []
    for each in status.roles:
        who = ", ".join(f"{key['name']} ({key['id'][:8]}{', here' if key['here'] else ''})" for key in each.keys)
        left = "not published" if each.days is None else "expired" if each.days <= 0 else f"{each.days:.1f} days"
        rows.append([each.role, each.version or "-", f"{each.threshold} of {who}", left])
    console.table("", ["role", "version", "signed by", "expires in"], rows, right=["version"])
    for each in status.roles:
        for text in each.staged:
            console.line(f"staged: {each.role}", text)
        if each.waits_for:
            console.line(f"waits: {each.role}", each.waits_for, "yellow")
    for model, numbers in status.versions.items():
        console.line(model, ", ".join(numbers))
    if status.root:
        console.line("root", f"{status.root}, SHA-256 {status.fingerprint}")


def _publisher(folder: Path | None, keys: list[Path] | None) -> Publisher:
    from robustidps.updates.publishing import Publisher

    home = current_settings().home
    return Publisher(folder or home / "publisher", keys or ())


def _plain(done: Publication) -> dict[str, Any]:
    return {"published": list(done.roles), "waiting": dict(done.waiting)}


def _show(done: Publication, as_json: bool) -> None:
    if as_json:
        console.emit_json(_plain(done))
    else:
        _tell(done)


def _tell(done: Publication) -> None:
    if done.roles:
        console.line("published", ", ".join(done.roles), "green")
    elif not done.waiting:
        console.line("published", "nothing: all of it is there already")
    for role, what in done.waiting.items():
        console.line(f"{role} waits for", what, "yellow")
