#![no_main]

avion_fuzz::fuzz!(avion_fuzz::feeds::video::parameter_sets);
