"""The FastAPI scenario's app: one route with a path and a query parameter.

Rules of this file: as starlette_app.py's. No response model: the scenario is the parameters, and
validating the answer would drown them.
"""

from fastapi import FastAPI


async def item(item_id: int, q: str) -> dict[str, int | str]:
    return {"id": item_id, "q": q}


app = FastAPI()
app.add_api_route("/items/{item_id}", item, response_model=None)
