"""Where the CPU of a running app goes: a profiler driven, its stacks folded, a flame graph drawn.

    frames.py       one frame of a stack, and which layer it belongs to; pure
    stacks.py       stacks folded and made readable; shares by layer; pure
    perf_text.py    what `perf script` prints, as stacks; pure
    spy_text.py     what py-spy records, as stacks; pure
    flamegraph.py   the SVG, with flamegraph_style.py (its CSS and script); pure
    table.py        the shares as text; pure
    tools.py        which programs there are, and what to tell whoever lacks one
    programs.py     child processes: started apart, ended by their pid
    perf.py         a recording made by perf
    spy.py          a recording made by py-spy
    server.py       the server that is profiled: one of our own, or one that runs
    load.py         the load, by wrk or by load_child.py
    progress.py     what the user sees meanwhile
    session.py      all of it, in order

Rules of this room: it watches a server from outside, as a process; nothing here is imported by a
worker or by a master. Every process it starts is ended by pid, whatever happens, and every file it
makes outside the folder of the results is removed. What cannot be had is a ProfileError whose text
says what to do about it.
"""
