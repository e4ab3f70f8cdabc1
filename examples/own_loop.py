"""A stack without a thread: the program polls it, and sleeps no longer than until the stack's next deadline.

The packets go through a list here; they could as well come from a device, a radio or a file.
"""

import time

import ustack


def main() -> None:
    wire: list[tuple[ustack.Callback, bytes]] = []
    a = ustack.Callback(send=lambda packet: wire.append((b, packet)), medium="ip")
    b = ustack.Callback(send=lambda packet: wire.append((a, packet)), medium="ip")
    with ustack.Stack(driver="manual") as left, ustack.Stack(driver="manual") as right:
        left.attach(a, addresses=["10.9.0.1/24"])
        right.attach(b, addresses=["10.9.0.2/24"])
        receiver = right.socket(ustack.AF_INET, ustack.SOCK_DGRAM)
        receiver.bind(("", 9))
        with left.socket(ustack.AF_INET, ustack.SOCK_DGRAM) as sender, receiver:
            sender.sendto(b"no thread was needed", ("10.9.0.2", 9))
            while True:
                for link, packet in [wire.pop(0) for _ in range(len(wire))]:
                    link.receive(packet)
                now = time.monotonic_ns()
                left.poll(now)
                right.poll(now)
                try:
                    data, peer = receiver.recvfrom(100)
                except BlockingIOError:
                    if not wire:
                        deadlines = [d for d in (left.next_deadline(), right.next_deadline()) if d is not None]
                        time.sleep(max(0, min(deadlines, default=now) - now) / 1e9)
                    continue
                print(f"{data.decode()} (from {peer[0]})")
                return


if __name__ == "__main__":
    main()
