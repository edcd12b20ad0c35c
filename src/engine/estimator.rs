//! Offset and frequency of the crystal from exchanges, with an honest bound. (Stand-in; replaced next.)
