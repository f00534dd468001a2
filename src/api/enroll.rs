//! The admin socket's part for enrollment: each step is written down before it is answered.

use data_encoding::BASE64;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Admin;
use super::reply::{self, Reply};
use crate::audit::{Event, Unrecorded};
use crate::enroll::{Challenge, ToolsFile};
use crate::issue::{Error, Logs};
use crate::tpm::{self, EkKind};

/// A file of `tpm2_makecredential`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialBody {
    ek: String,
    /// Base64
    credential: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallBody {
    /// PEM
    certificate: String,
}

/// Does one step for an administrator, `by` name.
pub async fn answer(admin: &Admin, by: &str, step: &str, request: Request<Incoming>) -> Reply {
    if !matches!(step, "request" | "activate" | "credential" | "install") {
        return reply::not_found();
    }
    let text = match admin.bodies.read(request).await {
        Ok(body) => body.text,
        Err(broken) => return broken,
    };
    let road = &admin.road;
    let (Some(standing), Some(tpm)) = (road.issuer.standing(), road.handle.borrow().clone()) else {
        return admin.not_standing();
    };
    let (enrollment, now) = (&road.enrollment, road.clock.now());
    match step {
        "request" => {
            // The list of measured files is long, and for those who verify what runs.
            let logs = Logs { boot: road.boot_log.clone(), ima: None };
            let made = enrollment.request(&standing, &tpm, logs, now).await;
            let what = format!("{by} had an enrollment request made");
            told(admin, Event::EnrollmentRequested, &what, made).await
        }
        "activate" => {
            let opened = match Challenge::parse(&text) {
                Ok(challenge) => enrollment.open_challenge(&tpm, &challenge).await,
                Err(e) => Err(e.into()),
            };
            let opened = match opened {
                Ok(opened) => opened,
                Err(e) => return told::<()>(admin, Event::EnrollmentRefused, "", Err(e)).await,
            };
            // Before it is used up, or a full disk would cost the operator a challenge.
            let what = format!("{by} had enrollment challenge {} answered", opened.id());
            if let Err(unrecorded) = road.audit.event(Event::EnrollmentAnswered, &what).await {
                return untold(&unrecorded);
            }
            match opened.answer(now).await {
                Ok(answer) => reply::json(StatusCode::OK, &answer),
                Err(e) => told::<()>(admin, Event::EnrollmentRefused, "", Err(e)).await,
            }
        }
        "credential" => {
            let made = match credential(&text) {
                Ok((ek, file)) => enrollment.open_credential(&tpm, ek, file).await,
                Err(e) => Err(e),
            };
            let made = made.map(|secret| json!({ "secret": BASE64.encode(&secret) }));
            told(admin, Event::EnrollmentCredential, &format!("{by} had a credential opened"), made).await
        }
        _ => {
            let made = match serde_json::from_slice::<InstallBody>(&text) {
                Ok(body) => {
                    let domain = &standing.host().trust_domain;
                    enrollment.install(&tpm, body.certificate.as_bytes(), domain, now).await
                }
                Err(e) => Err(Error::Enrollment(e.to_string())),
            };
            let whose = made.as_ref().map_or_else(|_| String::new(), |report| report.issuer.clone());
            let what = format!("{by} installed a certificate by {whose} for the host key");
            told(admin, Event::CertificateInstalled, &what, made).await
        }
    }
}

fn credential(text: &[u8]) -> Result<(EkKind, ToolsFile), Error> {
    let fault = |what: String| Error::Enrollment(what);
    let body: CredentialBody = serde_json::from_slice(text).map_err(|e| fault(e.to_string()))?;
    let ek = match body.ek.as_str() {
        "ecc" => EkKind::P256,
        "rsa" => EkKind::Rsa,
        _ => return Err(fault("ek is \"ecc\" or \"rsa\"".into())),
    };
    let file = BASE64.decode(body.credential.as_bytes()).map_err(|e| fault(e.to_string()))?;
    Ok((ek, ToolsFile::parse(&file)?))
}

fn untold(unrecorded: &Unrecorded) -> Reply {
    reply::error(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", &unrecorded.to_string())
}

/// Writes down what was done, or what was refused, and answers.
async fn told<T: Serialize>(admin: &Admin, event: Event, what: &str, made: Result<T, Error>) -> Reply {
    let (event, what) = match &made {
        Ok(_) => (event, what.to_owned()),
        Err(e) => (Event::EnrollmentRefused, e.to_string()),
    };
    if let Err(unrecorded) = admin.road.audit.event(event, &what).await {
        return untold(&unrecorded);
    }
    match made {
        Ok(body) => reply::json(StatusCode::OK, &body),
        Err(Error::Enrollment(_) | Error::Tpm(tpm::Error::Request(_))) => {
            reply::error(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", &what)
        }
        Err(Error::Tpm(_)) => reply::error(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", &what),
        Err(_) => reply::error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", &what),
    }
}
