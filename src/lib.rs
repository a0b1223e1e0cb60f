//! avion
