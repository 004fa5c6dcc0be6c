"""The demonstration: several processes share sessions, one of them is killed, and nothing acknowledged may be lost.

Four runtimes replay recorded conversations into shared sessions. Each holds copies of its own and knows nothing of the
others; a UI process renames, pins, tags and answers beside them; one runtime dies by SIGKILL and starts again. Every
process keeps a logbook of what it tried and what was acknowledged. In the end the sessions are read back and held
against the logbooks, which know nothing of how the library works, so that the library cannot vouch for itself.

    chats    files of conversations, read          ui       the UI process
    plan     who says, asks and edits what (pure)  judge    logbooks + sessions read back -> findings (pure)
    scripts  the plan and the places, as files     run      starts, kills, restarts, collects
    logbook  attempts and acknowledgements         show     progress and table on the terminal
    worker   one runtime process                   command  arguments in, exit code out
"""
