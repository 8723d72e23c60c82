"""Training through recurrent cells over whole videos, with gradients of its own: few operators, and nothing masked."""
