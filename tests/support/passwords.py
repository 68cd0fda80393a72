"""Password hashes: cheap ones for nearly all tests, those of production where a test is about their cost."""

import bcrypt

real_salt = bcrypt.gensalt
