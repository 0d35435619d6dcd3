// How the planes of a payload are cut (docs/format.md): what the kernel that takes payloads apart and those that make
// them have of it in common.
#pragma once

#include "vectors.cuh"

// Rows of 32 bytes whose bits fill whole words of lanes, and the bytes of that: a group.
constexpr unsigned ROWS = 8;
constexpr unsigned GROUP = ROWS * LANES;
// Elements of which it is said at once that all are 0.
constexpr unsigned ZERO_BLOCK = 64;
