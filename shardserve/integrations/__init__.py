"""Doors for other people's programs: Python code that would import uvicorn, and gunicorn.

    keywords.py   Uvicorn's keywords in the words of our settings
    settings.py   shardserve.Config
    hosted.py     one worker inside a process that is not ours
    embedded.py   shardserve.Server: a hosted worker, held as Uvicorn's Server is held
    running.py    shardserve.run()
    gunicorn.py   shardserve.ShardWorker, gunicorn's -k

Nothing here is on the request path, and no module of another room imports from here.
"""
