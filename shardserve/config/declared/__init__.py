"""THE declaration of every setting: one dataclass for each group of them.

    application.py  Application, Development
    processes.py    Address, Processes, Recycling
    edge.py         TLS, Proxies
    limits.py       Limits, Timeouts
    http2.py        Http2
    protocols.py    WebSocket, Responses, Uvicorn
    logs.py         Control, Logs

Rules of this folder: a setting is one field of one of these, declared with ``setting()``; its group is the
class. ``model.Config`` inherits from all of them and is the only one of which there are objects, so no other
has methods made for it.
"""
