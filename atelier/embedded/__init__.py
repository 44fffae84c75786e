"""Every part of Atelier on one machine, from wheels: no root, no Docker, no GPU needed.

| module         | what it knows                                                       |
|----------------|---------------------------------------------------------------------|
| part.py        | what a part is: how to prepare it, start it and tell that it answers |
| postgres.py    | PostgreSQL                                                          |
| s3.py          | SeaweedFS                                                           |
| triton.py      | one Triton a device                                                 |
| rooms.py       | our own scheduler, agent and gateway                                |
| stack.py       | all of them, with their addresses and secrets put together          |
| supervisor.py  | starts them in order, starts again what dies, stops them in reverse |
| state.py       | the folder that all of this lives in; ports.py remembers the ports  |
| processes.py   | what the kernel knows of a pid; launch.py ties a child's life to ours |
| logs.py        | one log file a part                                                 |
"""
