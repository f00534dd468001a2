// Verifies a token with the settings of the guide: verify PARTY JWKS-FILE ISSUER AUDIENCE TOKEN. PARTY is
// go-oidc, or vault (the library of the JWT method of Vault and OpenBao). Prints the claims; exit 1 and the
// reason if the token is refused.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/hashicorp/cap/jwt"
)

func main() {
	party, file, issuer, audience, token := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	keys, err := os.ReadFile(file)
	check(err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(keys)
	}))
	defer server.Close()
	var claims map[string]any
	switch party {
	case "go-oidc":
		claims = goOIDC(server.URL, issuer, audience, token)
	case "vault":
		claims = vault(server.URL, issuer, audience, token)
	default:
		check(fmt.Errorf("unknown party %s", party))
	}
	check(json.NewEncoder(os.Stdout).Encode(claims))
}

func goOIDC(jwksURL, issuer, audience, token string) map[string]any {
	ctx := context.Background()
	keys := oidc.NewRemoteKeySet(ctx, jwksURL)
	verifier := oidc.NewVerifier(issuer, keys, &oidc.Config{
		ClientID:             audience,
		SupportedSigningAlgs: []string{oidc.ES256},
	})
	verified, err := verifier.Verify(ctx, token)
	check(err)
	claims := map[string]any{}
	check(verified.Claims(&claims))
	return claims
}

func vault(jwksURL, issuer, audience, token string) map[string]any {
	ctx := context.Background()
	keys, err := jwt.NewJSONWebKeySet(ctx, jwksURL, "")
	check(err)
	validator, err := jwt.NewValidator(keys)
	check(err)
	claims, err := validator.Validate(ctx, token, jwt.Expected{
		Issuer:            issuer,
		Audiences:         []string{audience},
		SigningAlgorithms: []jwt.Alg{jwt.ES256},
	})
	check(err)
	return claims
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "invalid:", err)
		os.Exit(1)
	}
}
