from ustack_ext.driver.driver import Driver
from ustack_ext.driver.world import World

class VirtualDriver(Driver):
    def __init__(self, world: World, seed: bytes, budget: int = 0) -> None: ...
    @property
    def world(self) -> World: ...
