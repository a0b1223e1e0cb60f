#![no_main]

avion_fuzz::fuzz!(avion_fuzz::feeds::checkpoints::safetensors);
