from ustack_ext.driver.driver import Driver

class ThreadDriver(Driver):
    def __init__(self, seed: bytes | None = None, budget: int = 0) -> None: ...
