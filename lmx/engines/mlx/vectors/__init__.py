"""Models that answer with numbers, on MLX: encoders, their heads, and decoders used as such.

`loading` brings one up; `engine` is what the scheduler drives. A *net* turns token rows into one
row of numbers each; it knows neither texts nor requests.
"""
