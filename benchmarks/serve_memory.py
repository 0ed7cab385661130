"""Memory of a server over many requests, a third of whose clients vanish.

    python benchmarks/serve_memory.py --vector VECTOR [--requests 1000] [--model M] [--write]

Every request is steered in its own way and read; eight clients at a time.
"""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from common import arguments, publish
from personavec import PersonaVector, load_model
from serve import Server, serving

TOKENS = 4
CLIENTS = 8


def resident(server: Server) -> float:
    """MB in memory."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def ask(server: Server, trait: str, i: int) -> None:
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=600)
    body = {
        "messages": [{"role": "user", "content": f"What is {i} good for?"}], "seed": i, "stream": i % 3 == 0,
        "max_tokens": 100 if i % 3 == 0 else TOKENS, "persona": {"steer": {trait: 0.01 * (i % 50)}},
    }  # fmt: skip
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200
    response.read(10 if i % 3 == 0 else None)  # a third go before they are answered
    connection.close()


def main() -> None:
    parser = arguments(str(__doc__).splitlines()[0], model=True)
    parser.add_argument("--vector", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=1000)
    options = parser.parse_args()
    trait, model = PersonaVector.load(options.vector).trait, load_model(options.model)
    rows, part = [], max(1, options.requests // 10)
    with serving(options.model, [options.vector]) as server, ThreadPoolExecutor(CLIENTS) as pool:
        for start in range(0, options.requests, part):
            list(pool.map(lambda i: ask(server, trait, i), range(start, start + part)))
            rows.append([str(start + part), f"{resident(server):.0f}"])
            print(" | ".join(rows[-1]), flush=True)
    notes = [
        f"{model.id}; {CLIENTS} clients; every third hangs up after 10 bytes, the others get {TOKENS} tokens. The readings of the "
        "last 256 requests are kept, prompts in the prefix cache up to an eighth of its budget.",
        "Until places let go of their keys and values as they ended, the same took 1,220 MB after 100 requests, 1,876 after "
        "600 and 1,878 after 1,000: each block of a group referred to its group, so that a group of which nobody was left "
        "(70 MB here) waited for Python's search for cycles, which comes after hundreds of requests.",
    ]
    publish(
        "serve_memory",
        "Memory of the server",
        ["requests", "MB"],
        rows,
        notes,
        options.write,
        model.device,
        timed=False,
    )


if __name__ == "__main__":
    main()
