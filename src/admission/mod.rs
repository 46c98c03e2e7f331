//! Bounds on clients: connections not logged in per address, places, descriptors in all.

mod address;
mod descriptors;
mod places;

pub use address::{AddressPermit, AddressTable};
pub use descriptors::{AtCap, DescriptorCap, DescriptorPermit, TooFewDescriptors};
pub use places::{PlacePermit, Places};
