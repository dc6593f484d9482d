"""Supervision under trio: what runs beside the requests, when, and what its death means.

`bridge` joins the two loops, `ports` says what a loop is given, `pace` is the rhythm of one loop, `loops` the table
of all, `keeper` restarts the one that dies, `tree` starts and drains them. Nothing here opens a socket or a file,
and nothing here is truth: all of it can be killed at any `await` and started again from the journal's state.
"""
