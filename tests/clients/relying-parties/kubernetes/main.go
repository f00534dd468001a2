// Verifies a token by the authenticator of the Kubernetes API server, with the configuration of the guide:
// kubernetes JWKS-FILE ISSUER AUDIENCE TOKEN. Prints the claims once the user is authenticated by the
// subject; exit 1 and the reason if the token is refused.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/coreos/go-oidc"
	"k8s.io/apiserver/pkg/apis/apiserver"
	authenticator "k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
)

func main() {
	file, issuer, audience, token := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	keys, err := os.ReadFile(file)
	check(err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(keys)
	}))
	defer server.Close()
	prefix, ctx := "", context.Background()
	tokens, err := authenticator.New(ctx, authenticator.Options{
		JWTAuthenticator: apiserver.JWTAuthenticator{
			Issuer: apiserver.Issuer{URL: issuer, Audiences: []string{audience}},
			ClaimMappings: apiserver.ClaimMappings{
				Username: apiserver.PrefixedClaimOrExpression{Claim: "sub", Prefix: &prefix},
			},
		},
		SupportedSigningAlgs: []string{"ES256"},
		// The key set of the discovery document, which the API server fetches by HTTPS.
		KeySet: oidc.NewRemoteKeySet(ctx, server.URL),
	})
	check(err)
	response, authenticated, err := tokens.AuthenticateToken(ctx, token)
	check(err)
	if !authenticated {
		check(errors.New("not a token of this issuer"))
	}
	claims, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	check(err)
	var subject struct{ Sub string }
	check(json.Unmarshal(claims, &subject))
	if subject.Sub != response.User.GetName() {
		check(fmt.Errorf("the user is %s", response.User.GetName()))
	}
	fmt.Println(string(claims))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "invalid:", err)
		os.Exit(1)
	}
}
