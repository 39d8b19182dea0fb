//! Tests of transport and devices.
