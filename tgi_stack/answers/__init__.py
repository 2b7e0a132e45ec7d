"""What is kept between runs, and under which keys; the kinds of values are registered."""

from tgi_stack.answers import kinds as kinds
