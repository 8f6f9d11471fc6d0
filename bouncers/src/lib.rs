//! bouncers
