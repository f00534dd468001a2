//! Routes as data: which requests a socket answers, who may send them, and what then runs.
//!
//! A socket has one table of [`Route`]s with one row for each path. Status 404, status 405 with its `Allow`
//! header, and HEAD follow from the table. A row's `role` holds the handler, so a route without a role does
//! not compile, and a handler cannot run for another role than its own.

use hyper::Method;
use hyper::header::{HeaderMap, HeaderValue};

use crate::correlation::{Correlation, RequestContext, TRACEPARENT};

/// One path of a socket.
pub struct Route<R: 'static> {
    pub verb: Verb,
    /// Exact, or with names in braces, at most [`MAX_NAMES`]: each stands for one segment that is not empty.
    pub path: &'static str,
    pub body: Body,
    /// Who may call, with the handler that runs for them.
    pub role: R,
}

/// The method of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// GET and HEAD. hyper sends no body in reply to HEAD.
    Get,
    Post,
}

/// What happens to the body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// It is not read.
    Ignored,
    /// It is read; one of more bytes is refused.
    UpTo(usize),
}

/// Names in one path.
const MAX_NAMES: usize = 2;

/// What stands in place of the braces of a path.
pub type Names<'a> = [&'a str; MAX_NAMES];

/// The route of a request.
pub enum RouteMatch<'a, R: 'static> {
    /// The route, and the texts in place of the braces: empty where the path has none.
    Found(&'static Route<R>, Names<'a>),
    /// The path exists and takes the methods of this `Allow` header (RFC 9110 section 10.2.1).
    WrongMethod(&'static str),
    /// No route has this path.
    NotFound,
}

impl<R> RouteMatch<'_, R> {
    /// The route, if the request has one.
    pub fn route(&self) -> Option<&'static Route<R>> {
        match self {
            RouteMatch::Found(route, _) => Some(*route),
            RouteMatch::WrongMethod(_) | RouteMatch::NotFound => None,
        }
    }
}

/// What records say of a request: its ids, and its route without what the caller put in place of the braces.
/// `route` is the route that was found for it, if there is one.
pub fn context<R>(route: Option<&Route<R>>, headers: &HeaderMap) -> RequestContext {
    let (verb, path) = route.map_or(("other", "request"), |route| (route.verb.method(), route.path));
    let traceparents = headers.get_all(TRACEPARENT).iter().map(HeaderValue::as_bytes);
    RequestContext { verb, path, correlation: Correlation::of_request(traceparents) }
}

/// Finds the route of a request. An exact path takes precedence over one with braces.
pub fn find<'a, R>(routes: &'static [Route<R>], method: &Method, path: &'a str) -> RouteMatch<'a, R> {
    let exact = routes.iter().find(|route| route.path == path).map(|route| (route, Names::default()));
    let found =
        exact.or_else(|| routes.iter().find_map(|route| Some((route, names_in_path(route.path, path)?))));
    match found {
        Some((route, names)) if route.verb.accepts(method) => RouteMatch::Found(route, names),
        Some((route, _)) => RouteMatch::WrongMethod(route.verb.allow_header()),
        None => RouteMatch::NotFound,
    }
}

impl Verb {
    /// The method as records of a request have it.
    pub fn method(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Post => "POST",
        }
    }

    /// The key of an operation in `docs/openapi.yaml`.
    #[cfg(test)]
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::Post => "post",
        }
    }

    fn accepts(self, method: &Method) -> bool {
        match self {
            Verb::Get => matches!(*method, Method::GET | Method::HEAD),
            Verb::Post => *method == Method::POST,
        }
    }

    fn allow_header(self) -> &'static str {
        match self {
            Verb::Get => "GET, HEAD",
            Verb::Post => "POST",
        }
    }
}

/// Asserts that each path has one row.
#[cfg(test)]
#[track_caller]
pub fn assert_unique_paths<R>(routes: &[Route<R>]) {
    for (index, route) in routes.iter().enumerate() {
        assert!(routes[..index].iter().all(|other| other.path != route.path), "{}", route.path);
    }
}

/// The texts in place of the braces, if the path is one of the pattern.
fn names_in_path<'a>(pattern: &str, path: &'a str) -> Option<Names<'a>> {
    let (mut names, mut found) = (Names::default(), 0);
    let (mut expected, mut segments) = (pattern.split('/'), path.split('/'));
    loop {
        match (expected.next(), segments.next()) {
            (None, None) => return Some(names),
            (Some(expected), Some(segment)) if expected.starts_with('{') => {
                *names.get_mut(found).filter(|_| !segment.is_empty())? = segment;
                found += 1;
            }
            (expected, segment) if expected == segment => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &[Route<u8>] = &[
        Route { verb: Verb::Get, path: "/a/{name}", body: Body::Ignored, role: 1 },
        Route { verb: Verb::Post, path: "/a/b", body: Body::Ignored, role: 2 },
        Route { verb: Verb::Get, path: "/c/{name}/d", body: Body::Ignored, role: 3 },
        Route { verb: Verb::Get, path: "/e/{name}/f/{number}", body: Body::Ignored, role: 4 },
    ];

    fn found(method: Method, path: &str) -> Result<(u8, String), &'static str> {
        match find(ROUTES, &method, path) {
            RouteMatch::Found(route, names) => Ok((route.role, names.concat())),
            RouteMatch::WrongMethod(allow) => Err(allow),
            RouteMatch::NotFound => Err(""),
        }
    }

    #[test]
    fn exact_path_precedes_pattern() {
        assert_eq!(found(Method::POST, "/a/b"), Ok((2, String::new())));
        assert_eq!(found(Method::GET, "/a/b"), Err("POST"));
        assert_eq!(found(Method::HEAD, "/a/c"), Ok((1, "c".to_owned())));
        assert_eq!(found(Method::DELETE, "/a/c"), Err("GET, HEAD"));
        assert_eq!(found(Method::GET, "/c/x/d"), Ok((3, "x".to_owned())));
        assert_eq!(found(Method::GET, "/e/x/f/1"), Ok((4, "x1".to_owned())));
        for path in [
            "/",
            "/a",
            "/a/",
            "/a/c/d",
            "/a/{name}/",
            "/c/d",
            "/c//d",
            "/c/x",
            "/c/x/y/d",
            "/e/x/f",
            "/e//f/1",
        ] {
            assert_eq!(found(Method::GET, path), Err(""), "{path}");
        }
    }
}
