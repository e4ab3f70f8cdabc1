"""A test of an asyncio program over a network that loses 5 % of all packets, in virtual time: it takes no time.

The program is a client with a timeout and a server; neither knows of the simulation. The same seed, the same run.
"""

import asyncio

import ustack.sim

LINES = 200


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each line with its length."""
    async for line in reader:
        writer.write(b"%d\n" % (len(line) - 1))
    writer.close()


async def ask(stack: ustack.Stack, lines: int) -> int:
    reader, writer = await stack.open_connection("10.0.0.2", 7)
    total = 0
    for number in range(lines):
        writer.write(b"x" * number + b"\n")
        total += int(await asyncio.wait_for(reader.readline(), timeout=10))
    writer.close()
    await writer.wait_closed()
    return total


async def program(client: ustack.Stack, server: ustack.Stack) -> int:
    listening = await server.start_server(serve, "", 7)
    total = await ask(client, LINES)
    await asyncio.sleep(3600)  # an hour passes at once
    listening.close()
    return total


def run(seed: int) -> tuple[int, int]:
    with ustack.sim.Network(seed=seed) as net:
        client, server = net.stack("client"), net.stack("server")
        wire = net.wire(client, server, addresses=("10.0.0.1/24", "10.0.0.2/24"), delay=0.02, loss=0.05)
        assert net.run_async(program(client, server)) == sum(range(LINES))
        assert wire.stats["a_to_b"]["lost"] > 0
        return net.now, client.counters()["TcpRetransSegs"]


def main() -> None:
    first, second = run(seed=5), run(seed=5)
    assert first == second
    print(f"{LINES} answers and an hour in virtual time, {first[1]} segments sent again; twice exactly so")


if __name__ == "__main__":
    main()
