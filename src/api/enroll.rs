//! The admin socket's part for enrollment: each step is written down before it is answered.

use data_encoding::BASE64;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::AdminApi;
use super::reply::{self, Reply};
use crate::audit::{AuditUnavailable, Event};
use crate::enroll::{EnrollmentChallenge, Tpm2ToolsCredential};
use crate::error_class::ErrorClass;
use crate::issue::{EnrollmentError, Error, MeasurementLogs};
use crate::tpm::EkKind;

/// A file of `tpm2_makecredential`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialRequestBody {
    ek: String,
    /// Base64
    credential: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallRequestBody {
    /// PEM
    certificate: String,
}

/// Does one step for an administrator, `by` name.
pub async fn handle_step(
    api: &AdminApi,
    requested_by: &str,
    step: &str,
    request: Request<Incoming>,
) -> Reply {
    if !matches!(step, "request" | "activate" | "credential" | "install") {
        return reply::not_found();
    }
    let text = match api.body_budget.read(request).await {
        Ok(body) => body.bytes,
        Err(error_reply) => return error_reply,
    };
    let service = &api.service;
    let (Some(issuer_state), Some(tpm)) = (service.issuer.state(), service.tpm.borrow().clone()) else {
        return api.issuer_unavailable();
    };
    let (enrollment, now) = (&service.enrollment, service.clock.now());
    match step {
        "request" => {
            // The list of measured files is long, and for those who verify what runs.
            let logs = MeasurementLogs { boot: service.event_log.clone(), ima: None };
            let result = enrollment.create_request(&issuer_state, &tpm, logs, now).await;
            let description = format!("{requested_by} had an enrollment request made");
            record_and_reply(api, Event::EnrollmentRequested, &description, result).await
        }
        "activate" => {
            let opened = match EnrollmentChallenge::parse(&text) {
                Ok(challenge) => enrollment.open_challenge(&tpm, &challenge).await,
                Err(e) => Err(e.into()),
            };
            let opened = match opened {
                Ok(opened) => opened,
                Err(e) => return record_and_reply::<()>(api, Event::EnrollmentRefused, "", Err(e)).await,
            };
            // Before it is used up, or a full disk would cost the operator a challenge.
            let description = format!("{requested_by} had enrollment challenge {} answered", opened.id());
            if let Err(unavailable) =
                service.audit.record_event(Event::EnrollmentAnswered, &description).await
            {
                return audit_unavailable(&unavailable);
            }
            match opened.record_answer(now).await {
                Ok(answer) => reply::json(StatusCode::OK, &answer),
                Err(e) => record_and_reply::<()>(api, Event::EnrollmentRefused, "", Err(e)).await,
            }
        }
        "credential" => {
            let result = match parse_credential(&text) {
                Ok((ek, file)) => enrollment.open_credential(&tpm, ek, file).await,
                Err(e) => Err(e),
            };
            let result = result.map(|secret| json!({ "secret": BASE64.encode(&secret) }));
            record_and_reply(
                api,
                Event::EnrollmentCredential,
                &format!("{requested_by} had a credential opened"),
                result,
            )
            .await
        }
        _ => {
            let result = match serde_json::from_slice::<InstallRequestBody>(&text) {
                Ok(body) => {
                    let domain = &issuer_state.host().trust_domain;
                    enrollment.install(&tpm, body.certificate.as_bytes(), domain, now).await
                }
                Err(e) => Err(EnrollmentError::body(e).into()),
            };
            let certificate_issuer =
                result.as_ref().map_or_else(|_| String::new(), |report| report.issuer.clone());
            let description =
                format!("{requested_by} installed a certificate by {certificate_issuer} for the host key");
            record_and_reply(api, Event::CertificateInstalled, &description, result).await
        }
    }
}

fn parse_credential(text: &[u8]) -> Result<(EkKind, Tpm2ToolsCredential), Error> {
    let body: CredentialRequestBody = serde_json::from_slice(text).map_err(EnrollmentError::body)?;
    let ek = match body.ek.as_str() {
        "ecc" => EkKind::P256,
        "rsa" => EkKind::Rsa,
        _ => return Err(EnrollmentError::body("ek is \"ecc\" or \"rsa\"").into()),
    };
    let file = BASE64.decode(body.credential.as_bytes()).map_err(EnrollmentError::body)?;
    Ok((ek, Tpm2ToolsCredential::parse(&file)?))
}

fn audit_unavailable(unavailable: &AuditUnavailable) -> Reply {
    reply::error(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", &unavailable.to_string())
}

/// Writes down what was done, or what was refused, and answers.
async fn record_and_reply<T: Serialize>(
    api: &AdminApi,
    event: Event,
    description: &str,
    result: Result<T, Error>,
) -> Reply {
    let (event, description) = match &result {
        Ok(_) => (event, description.to_owned()),
        Err(e) => (Event::EnrollmentRefused, e.to_string()),
    };
    if let Err(unavailable) = api.service.audit.record_event(event, &description).await {
        return audit_unavailable(&unavailable);
    }
    let error = match result {
        Ok(body) => return reply::json(StatusCode::OK, &body),
        Err(error) => error,
    };
    let (status, code) = match error.class() {
        ErrorClass::BadRequest | ErrorClass::Conflict => {
            (StatusCode::UNPROCESSABLE_ENTITY, "invalid_request")
        }
        ErrorClass::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable"),
        ErrorClass::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
    };
    reply::error(status, code, &description)
}
