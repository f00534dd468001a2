//! The same as workload.py, with the `spiffe` crate.

use data_encoding::BASE64;
use serde_json::json;
use spiffe::WorkloadApiClient;
use tokio_stream::StreamExt;

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let audience = std::env::args().nth(1).ok_or("an audience")?;
    let client = WorkloadApiClient::connect_env().await?;
    let svid = client.fetch_jwt_svid([&audience], None).await?;
    println!("{}", json!({ "spiffe_id": svid.spiffe_id().to_string(), "token": svid.token() }));
    let valid = client.validate_jwt_token(&audience, svid.token()).await?;
    println!("{}", json!({ "valid": valid.spiffe_id().to_string() }));
    let denied = client.fetch_jwt_svid(["https://bank.example.com"], None).await;
    println!("{}", json!({ "denied": denied.is_err_and(|e| format!("{e:?}").contains("PermissionDenied")) }));
    let mut stream = client.stream_jwt_bundles().await?;
    for _ in 0..2 {
        let set = stream.next().await.ok_or("the stream ended")??;
        let kids: Vec<_> =
            set.iter().flat_map(|(_, bundle)| bundle.jwt_authorities().map(|key| key.key_id().to_owned())).collect();
        println!("{}", json!({ "kids": kids }));
    }
    let bundles = client.fetch_x509_bundles().await?;
    let domains: Vec<String> = bundles.iter().map(|(domain, _)| domain.to_string()).collect();
    println!("{}", json!({ "domains": domains }));
    let mut stream = client.stream_x509_contexts().await?;
    for _ in 0..2 {
        let context = stream.next().await.ok_or("the stream ended")??;
        let svid = context.default_svid().ok_or("no certificate")?;
        let bundle = context.bundle_set().get(svid.spiffe_id().trust_domain());
        let holds = bundle.is_some_and(|bundle| bundle.authorities().len() == 1);
        let leaf = BASE64.encode(svid.cert_chain()[0].as_bytes());
        println!("{}", json!({ "x509": svid.spiffe_id().to_string(), "leaf": leaf, "holds": holds }));
    }
    Ok(())
}
