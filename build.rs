//! Code of the SPIFFE Workload API from its .proto, in Rust alone: no protoc is needed.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/workload.proto");
    let files = protox::compile(["workload.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // What reflection tells.
    std::fs::write(out.join("workload.bin"), files.encode_to_vec())?;
    tonic_build::configure()
        .build_client(false)
        .build_transport(false)
        .btree_map(["."])
        // Shared by all streams that tell them.
        .bytes(["."])
        .codec_path("crate::api::workload::codec::SmallBufferCodec")
        .compile_fds(files)?;
    Ok(())
}
