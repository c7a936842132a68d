"""Settings: declared once in ``declared/``, read by ``load``, written out by ``render``.

    values.py    what one value may be: read it from text, check it, write it
    kinds.py     values of one setting, or two: certificates by name, routes, secrets, logging
    addresses.py the forms of ``bind``, and where syslog is
    access_format.py what a line of the access log says
    setting.py   what is known of one setting, and how one is declared
    mistakes.py  what is wrong with a configuration, as text
    declared/    THE declaration of every setting, in a file for each few groups of them
    model.py     the frozen ``Config`` made of them, and the table of settings
    tomlfile.py  a TOML file as (line, key, value)
    load.py      flags > environment > file > default, and every mistake at once
    envfile.py   variables for the application, from a .env file
    uvicorn.py   what is said of values of Uvicorn's that mean nothing here
    initial.py   the shardserve.toml that ``shardserve config init`` writes
    render.py    docs/reference/settings.md and the table of ``shardserve config show``

Adding a setting is one edit, in ``declared/``. Nothing here opens a socket, logs, or knows click.
"""

from .model import Config

__all__ = ["Config"]
