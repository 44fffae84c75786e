"""client.py ADDRESS draw MODEL PROMPT [STEPS [WIDTH]]: a picture, from the request to its URL.
client.py ADDRESS cancel ID: let a generation be.
ATELIER_API_KEY is the API key, if one is wanted.
"""

import os
import sys

# [shown]
from atelier.client import AtelierError, Client, image
from atelier.v1.generation_pb2 import GenerationState


def draw(client: Client, model: str, prompt: str, **fields: int) -> None:
    made = client.create(image(model, prompt, **fields))
    print("created", made.id, flush=True)
    for now in client.watch(made.id):
        state, at = GenerationState.Name(now.state), now.progress
        print(state, f"{at.step}/{at.total_steps}", flush=True)
        for result in now.results:
            print("result", result.url)


def explain(error: AtelierError) -> None:
    print("error", error.code, error)
    print("reason", error.reason)
    for wrong in error.violations:
        print("field", wrong.field, wrong.description)
    if error.retry_after_seconds is not None:
        print("retry after", error.retry_after_seconds)


# [end]


def main(address: str, command: str, *words: str) -> int:
    with Client(address, key=os.environ.get("ATELIER_API_KEY")) as client:
        try:
            if command == "draw":
                model, prompt, *numbers = words
                draw(
                    client,
                    model,
                    prompt,
                    **dict(zip(("steps", "width"), map(int, numbers), strict=False)),
                )
            else:
                print("cancelled", client.cancel(words[0]).id)
        except AtelierError as error:
            explain(error)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
