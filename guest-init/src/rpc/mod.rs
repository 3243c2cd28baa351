//! The guest API: the ttrpc server, one method for each RPC, and how a failed call is answered. What an RPC does
//! stands in the folder of its subject.

pub mod fault;
pub mod serve;
pub mod service;
