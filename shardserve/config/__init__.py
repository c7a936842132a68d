"""Settings: declared once in ``model``, read by ``load``, written out by ``render``.

    values.py    what one value may be: read it from text, check it, write it
    addresses.py the forms of ``bind``
    setting.py   what is known of one setting, and how one is declared
    mistakes.py  what is wrong with a configuration, as text
    model.py     THE declaration of every setting, and the frozen ``Config`` made of them
    tomlfile.py  a TOML file as (line, key, value)
    load.py      flags > environment > file > default, and every mistake at once
    render.py    docs/reference/settings.md and the table of ``shardserve config show``

Adding a setting is one edit, in ``model.py``. Nothing here opens a socket, logs, or knows click.
"""

from .model import Config

__all__ = ["Config"]
