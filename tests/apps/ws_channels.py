"""Django Channels: consumers of both kinds, groups, a layer in memory, and Django's views beside them."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    DEBUG=False,
    INSTALLED_APPS=["channels"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="not a secret",
    USE_TZ=True,
)
django.setup()

# What needs the settings.
from channels.exceptions import DenyConnection  # noqa: E402
from channels.generic.websocket import (  # noqa: E402
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    WebsocketConsumer,
)
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator, OriginValidator  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello from a view", content_type="text/plain")


urlpatterns = [path("", hello)]


class Room(AsyncJsonWebsocketConsumer):
    """What one says, all in the room hear."""

    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["name"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept(subprotocol="chat" if "chat" in self.scope["subprotocols"] else None)
        await self.send_json({"joined": self.room})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)
        await self.channel_layer.group_send(self.room, {"type": "left", "code": code})

    async def receive_json(self, content: Any, **how: Any) -> None:
        await self.channel_layer.group_send(self.room, {"type": "said", "what": content})

    async def said(self, event: dict[str, Any]) -> None:
        await self.send_json({"said": event["what"]})

    async def left(self, event: dict[str, Any]) -> None:
        await self.send_json({"left": event["code"]})


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data == "close":
            await self.close(4002, "as you like")
        else:
            await self.send(text_data=text_data, bytes_data=bytes_data)


class Threaded(WebsocketConsumer):
    """A sync consumer, which Channels runs in a thread."""

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.send(text_data=f"from a thread: {text_data}")


class Denied(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        raise DenyConnection


sockets = URLRouter(
    [
        path("room/<str:name>/", Room.as_asgi()),
        path("echo/", Echo.as_asgi()),
        path("threaded/", Threaded.as_asgi()),
        path("denied/", Denied.as_asgi()),
        path("own/", OriginValidator(Echo.as_asgi(), ["http://good.example"])),
    ]
)

app = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": AllowedHostsOriginValidator(sockets)})
